// The memory of the simulated device: ordinary bytes, counted, limited, refused where a test asks for it; and who of the
// streams may still be using what. Tensors are made and resized here.
#pragma once
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <c10/core/DeviceType.h>
#include <torch/library.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#ifdef SIMULATED_MAC  // Apple's GPUs: another device type, and no float64
#define CARD MPS
#else
#define CARD CUDA
#endif

namespace {

using at::Tensor;
using torch::jit::Stack;
constexpr auto KIND = c10::DeviceType::CARD;
constexpr auto KEY = c10::DispatchKey::CARD;
const c10::Device DEVICE(KIND, 0);

void refuse_float64(at::ScalarType dtype) {
#ifdef SIMULATED_MAC
  TORCH_CHECK_TYPE(dtype != at::kDouble && dtype != at::kComplexDouble,
                   "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32 instead.");
#endif
}

// ---- memory -------------------------------------------------------------------------------------------------------

struct Book {  // in bytes, each piece rounded up to 512 as CUDA's caching allocator does
  std::mutex lock;
  int64_t now = 0, peak = 0, limit = 0, pieces = 0, fail_at = 0, refused = 0, to_host = 0, to_device = 0, syncs = 0;

  int64_t take(int64_t bytes) {
    const int64_t size = (bytes + 511) / 512 * 512;
    std::lock_guard<std::mutex> guard(lock);
    pieces += bytes > 0;
    const bool chosen = bytes > 0 && fail_at > 0 && pieces == fail_at;
    if (chosen || (limit > 0 && now + size > limit)) {
      refused++;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", size, " bytes. GPU 0 (simulated) has ",
                       limit, " bytes, of which ", now, " are in use", chosen ? " (this failure was asked for)." : ".");
    }
    now += size;
    peak = std::max(peak, now);
    return size;
  }
  void give(int64_t size) {
    std::lock_guard<std::mutex> guard(lock);
    now -= size;
  }
} book;

// ---- streams: who has waited for whom ------------------------------------------------------------------------------
// Operators run at once, but each is noted on its stream as if it were queued. Memory that a stream gets again, while
// another stream may still be using it, is what CUDA's caching allocator does too: a race, written down in `races`.

using Clock = std::map<int64_t, int64_t>;  // stream -> its latest operator that is known to be finished
thread_local int64_t current_stream = 0;
struct Use { int64_t tick; std::string by; };
struct Streams {  // under the book's lock
  Clock queued, host;
  std::map<int64_t, Clock> seen;
  std::map<std::pair<int64_t, int64_t>, std::vector<std::map<int64_t, Use>>> freed;  // (stream, size) -> uses of the pieces
  std::vector<std::string> races;
  int64_t count = 0;

  static void join(Clock& into, const Clock& from) {
    for (auto& [stream, tick] : from) into[stream] = std::max(into[stream], tick);
  }
  void wait(int64_t stream, int64_t other) {
    join(seen[stream], seen[other]);
    seen[stream][other] = std::max(seen[stream][other], queued[other]);
  }
  void synchronize(int64_t stream) {  // the host waits
    join(host, seen[stream]);
    host[stream] = queued[stream];
  }
  void reuse(int64_t stream, int64_t size) {
    auto& pool = freed[{stream, size}];
    if (pool.empty()) return;
    for (auto& [other, use] : pool.back())
      if (other != stream && std::max(seen[stream][other], host[other]) < use.tick && count++ < 100)
        races.push_back(std::to_string(size) + " bytes of stream " + std::to_string(stream) + ", last used by " + use.by +
                        " on stream " + std::to_string(other));
    pool.pop_back();
  }
} streams;

struct Piece {
  int64_t size, bytes;
  const void* data;
  void* own;             // memory of our own, or
  c10::Storage adopted;  // what a CPU kernel answered in
  int64_t stream = current_stream;
  std::map<int64_t, Use> uses = {};
};
std::unordered_set<Piece*> held;  // under the book's lock

void note_use(const c10::StorageImpl* storage, const std::string& by) {
  std::lock_guard<std::mutex> guard(book.lock);
  auto found = held.find(static_cast<Piece*>(storage->data_ptr().get_context()));
  if (found != held.end()) (*found)->uses[current_stream] = {streams.queued[current_stream], by};
}

Piece* kept(Piece* piece) {
  std::lock_guard<std::mutex> guard(book.lock);
  held.insert(piece);
  streams.reuse(piece->stream, piece->size);
  return piece;
}

void release(void* context) {
  auto* piece = static_cast<Piece*>(context);
  {
    std::lock_guard<std::mutex> guard(book.lock);
    held.erase(piece);
    auto& pool = streams.freed[{piece->stream, piece->size}];
    if (pool.size() < 64) pool.push_back(std::move(piece->uses));
  }
  book.give(piece->size);
  std::free(piece->own);
  delete piece;
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release_nothing, DEVICE};
    const auto size = book.take(bytes);
    void* data = std::aligned_alloc(512, size);
    return {data, kept(new Piece{size, static_cast<int64_t>(bytes), data, data, {}}), &release, DEVICE};
  }
  static void release_nothing(void*) {}
  c10::DataPtr adopt(const c10::Storage& storage) {
    const auto size = book.take(storage.nbytes());
    auto* data = storage.mutable_data();
    return {data, kept(new Piece{size, static_cast<int64_t>(storage.nbytes()), data, nullptr, storage}), &release, DEVICE};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} memory;

Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  refuse_float64(c10::dtype_or_default(dtype));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, c10::DispatchKeySet(KEY),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  refuse_float64(c10::dtype_or_default(dtype));
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
                                           c10::DispatchKeySet(KEY), c10::dtype_or_default(dtype));
}

void grow(const Tensor& self, size_t bytes) {
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (bytes <= storage->nbytes()) return;
  auto data = memory.allocate(bytes);
  if (storage->nbytes()) std::memcpy(data.mutable_get(), storage->data(), storage->nbytes());
  storage->set_data_ptr_noswap(std::move(data));
  storage->set_nbytes(bytes);
}

const Tensor& resize_(const Tensor& self, c10::SymIntArrayRef sizes, std::optional<at::MemoryFormat> format) {
  const auto size = C10_AS_INTARRAYREF_SLOW(sizes);
  auto* impl = self.unsafeGetTensorImpl();
  if (self.sizes() != size) {
    impl->set_sizes_contiguous(size);
    grow(self, (self.storage_offset() + self.numel()) * self.itemsize());
  }
  if (format.has_value()) impl->empty_tensor_restride(*format);
  return self;
}

Tensor& set_part(Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size), strides = C10_AS_INTARRAYREF_SLOW(stride);
  at::native::checkSetStorage(self, source, offset.guard_int(__FILE__, __LINE__), sizes, strides);
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_offset(offset.guard_int(__FILE__, __LINE__));
  if (strides.data()) impl->set_sizes_and_strides(sizes, strides);
  else impl->set_sizes_contiguous(sizes);
  return self;
}

Tensor& set_whole(Tensor& self, at::Storage source) {
  const int64_t count = source.nbytes() / self.itemsize();
  return set_part(self, source, 0, c10::SymIntArrayRef({c10::SymInt(count)}), {});
}

Tensor& set_like(Tensor& self, const Tensor& source) {
  return set_part(self, source.storage(), source.sym_storage_offset(), source.sym_sizes(), source.sym_strides());
}

Tensor& set_empty(Tensor& self) {
  return set_whole(self, c10::Storage(c10::Storage::use_byte_size_t(), 0, memory.allocate(0), &memory, true));
}

}  // namespace
