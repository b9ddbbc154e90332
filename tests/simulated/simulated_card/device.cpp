// A pretend device for a CPU-only build of PyTorch: "cuda:0", or "mps:0" where it stands for a Mac. Its tensors' bytes lie in
// ordinary memory (memory.h), its operators run on the CPU (operators.h); views, in-place writes and autograd are the real
// ones. Nothing is faster or asynchronous.
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/utils/pybind.h>

#include "operators.h"

namespace {

// ---- attention: as much memory as a fused kernel takes ------------------------------------------------------------------

int64_t choose_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask, double dropout,
                         bool, std::optional<double>, bool gqa) {
  const bool fits = q.dim() == 4 && !gqa && dropout == 0 && q.dtype() == k.dtype() && q.size(3) == v.size(3) && q.dtype() != at::kDouble
                    && !(mask.has_value() && mask->requires_grad());
  return static_cast<int64_t>(fits ? at::SDPBackend::efficient_attention : at::SDPBackend::math);
}

void same_device(std::initializer_list<const Tensor*> tensors) {
  for (auto* t : tensors) check_devices("attention", false, *t);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                                                     bool, double dropout, bool causal, std::optional<double> scale) {
  at::AutoDispatchBelowADInplaceOrView below;
  same_device({&q, &k, &v});
  if (mask.has_value()) same_device({&*mask});
  Aliases a;
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(a.cpu(q), a.cpu(k), a.cpu(v), dropout, causal,
                                                                    mask.has_value() ? std::optional<Tensor>(a.cpu(*mask)) : mask, scale);
  const auto none = at::empty({0}, at::kLong);
  return {a.back(out), a.back(lse), none, none};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
                                                              const Tensor& mask, const Tensor& out, const Tensor& lse, const Tensor&,
                                                              const Tensor&, double dropout, std::array<bool, 4>, bool causal,
                                                              std::optional<double> scale) {
  at::AutoDispatchBelowADInplaceOrView below;
  if (!grad.defined()) return {};
  same_device({&grad, &q, &k, &v});
  Aliases a;
  auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      a.cpu(grad), a.cpu(q), a.cpu(k), a.cpu(v), a.cpu(out), a.cpu(lse), dropout, causal,
      mask.defined() ? std::optional<Tensor>(a.cpu(mask)) : std::nullopt, scale);
  return {a.back(dq), a.back(dk), a.back(dv), Tensor()};
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& input, at::IntArrayRef shape, const Tensor& rstd,
                                             const std::optional<Tensor>& weight, std::array<bool, 2> wanted) {
  at::AutoDispatchBelowADInplaceOrView below;
  same_device({&grad, &input, &rstd});
  Aliases a;  // the CPU has no such kernel
  const auto x = a.cpu(input).to(at::kFloat) * a.cpu(rstd).to(at::kFloat);
  const auto g = a.cpu(grad).to(at::kFloat);
  std::vector<int64_t> inner, outer;
  for (int64_t d = 0; d < input.dim(); d++) (d < input.dim() - (int64_t)shape.size() ? outer : inner).push_back(d);
  const bool has = weight.has_value() && weight->defined();
  const auto gy = has ? g * a.cpu(*weight).to(at::kFloat) : g;
  Tensor gx, gw;
  if (wanted[0]) gx = a.back((a.cpu(rstd).to(at::kFloat) * (gy - x * (gy * x).mean(inner, true))).to(input.scalar_type()));
  if (wanted[1] && has) gw = a.back((outer.empty() ? g * x : (g * x).sum(outer)).to(weight->scalar_type()));
  return {gx, gw};
}

TORCH_LIBRARY_IMPL(_, CARD, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, CARD, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("resize_", &resize_);
  m.impl("set_.source_Storage_storage_offset", &set_part);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Tensor", &set_like);
  m.impl("set_", &set_empty);
  m.impl("copy_", &copy_);
#ifndef SIMULATED_MAC
  m.impl("_scaled_dot_product_efficient_attention", &attention);
  m.impl("_scaled_dot_product_efficient_attention_backward", &attention_backward);
#endif
  m.impl("_fused_rms_norm_backward", &rms_norm_backward);
  // these have a general decomposition, which a GPU does not take
  for (const char* name : {"convolution", "convolution_backward", "native_layer_norm", "native_group_norm", "_fused_rms_norm"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

#ifdef SIMULATED_MAC
// PyTorch's own way there ends in a table that only a build for Macs has
Tensor attention_of_a_mac(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask, double dropout,
                          bool causal, std::optional<double> scale, bool gqa) {
  return std::get<0>(at::_scaled_dot_product_attention_math(q, k, v, mask, dropout, causal, {}, scale, gqa));
}

TORCH_LIBRARY_IMPL(aten, MPS, m) { m.impl("scaled_dot_product_attention", &attention_of_a_mac); }
TORCH_LIBRARY_IMPL(aten, AutogradMPS, m) { m.impl("scaled_dot_product_attention", &attention_of_a_mac); }
#endif

// ---- what PyTorch asks of a device ------------------------------------------------------------------------------------

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::UNSAFE, DEVICE, current_stream); }
  c10::Stream getDefaultStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream getNewStream(c10::Device d, int) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream next) const override {
    const auto before = getStream(DEVICE);
    current_stream = next.id();
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CARD, Guard)

}  // namespace

namespace at {
#ifdef SIMULATED_MAC
using HooksInterface = MPSHooksInterface;
#else
using HooksInterface = CUDAHooksInterface;
#endif

struct Hooks final : HooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  Device getDeviceFromPtr(void*) const override { return DEVICE; }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return default_generator(); }
  Generator getNewGenerator(DeviceIndex) const override { return at::make_generator<::Generator>(); }
#ifdef SIMULATED_MAC
  bool hasMPS() const override { return true; }
  bool isOnMacOSorNewer(unsigned, unsigned) const override { return true; }
  Allocator* getMPSDeviceAllocator() const override { return &memory; }
  void deviceSynchronize() const override {}
  void emptyCache() const override {}
#else
  bool hasCUDA() const override { return true; }
  DeviceIndex current_device() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  Allocator* getCUDADeviceAllocator() const override { return &memory; }
  void deviceSynchronize(DeviceIndex) const override {}
#endif
};

// PyTorch has made its empty hooks while it was imported and keeps them: these take their place. Neither holds data.
void take_over_hooks() {
  static Hooks ours;
#ifdef SIMULATED_MAC
  auto* theirs = const_cast<HooksInterface*>(&detail::getMPSHooks());
#else
  auto* theirs = const_cast<HooksInterface*>(&detail::getCUDAHooks());
#endif
  *reinterpret_cast<void**>(theirs) = *reinterpret_cast<void**>(static_cast<HooksInterface*>(&ours));
}

#ifndef SIMULATED_MAC
namespace native {
REGISTER_CUDA_DISPATCH(_fused_sdp_choice_stub, &choose_attention)
}
#endif
}  // namespace at

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  c10::SetAllocator(KIND, &memory);
  at::take_over_hooks();
  m.def("counts", [] {
    std::lock_guard<std::mutex> guard(book.lock);
    return std::map<std::string, int64_t>{{"now", book.now}, {"peak", book.peak}, {"limit", book.limit}, {"pieces", book.pieces},
                                          {"refused", book.refused}, {"to_host", book.to_host}, {"to_device", book.to_device},
                                          {"syncs", book.syncs}};
  });
  m.def("pieces_held", [] {  // (bytes, a number that equal contents share) of every piece in use
    std::lock_guard<std::mutex> guard(book.lock);
    std::vector<std::pair<int64_t, size_t>> found;
    for (auto* piece : held)
      found.emplace_back(piece->bytes, std::hash<std::string_view>()({static_cast<const char*>(piece->data), size_t(piece->bytes)}));
    return found;
  });
  m.def("stream", [] { return current_stream; });
  m.def("use_stream", [](int64_t stream) { std::swap(current_stream, stream); return stream; });
  m.def("wait_stream", [](int64_t stream, int64_t other) { std::lock_guard<std::mutex> guard(book.lock); streams.wait(stream, other); });
  m.def("synchronize", [](int64_t stream) { std::lock_guard<std::mutex> guard(book.lock); streams.synchronize(stream); });
  m.def("races", [] { std::lock_guard<std::mutex> guard(book.lock); return std::make_pair(streams.count, streams.races); });
  m.def("hold", [](int64_t bytes) { bytes > 0 ? void(book.take(bytes)) : book.give(-bytes); });  // memory that is no tensor's own
  m.def("set_limit", [](int64_t bytes) { std::lock_guard<std::mutex> guard(book.lock); book.limit = bytes; });
  m.def("fail_at", [](int64_t n) { std::lock_guard<std::mutex> guard(book.lock); book.fail_at = n ? book.pieces + n : 0; });
  m.def("reset", [] {
    std::lock_guard<std::mutex> guard(book.lock);
    book.peak = book.now;
    book.to_host = book.to_device = book.syncs = streams.count = 0;
    streams.races.clear();
  });
  m.def("allow_numbers_in", [](const std::vector<std::string>& names) { mixing_ops().insert(names.begin(), names.end()); });
  m.def("default_generator", [] { return default_generator(); });
}
