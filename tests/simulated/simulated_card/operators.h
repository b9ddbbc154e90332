// Every operator that has no code of its own runs on CPU aliases of the same bytes, after a check that no tensor of another
// device is among its arguments; so a new operator works without a line here.
#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include "memory.h"

namespace {

std::unordered_set<std::string>& mixing_ops() {  // they take a CPU number among the device's tensors, as on CUDA
  static std::unordered_set<std::string> names;
  return names;
}

struct Aliases {
  struct Pair { Tensor device, cpu; };
  std::vector<Pair> pairs;
  std::unordered_map<c10::StorageImpl*, c10::Storage> storages;

  std::string name = "attention";
  Tensor cpu(const Tensor& t) {
    if (!t.defined() || t.device().type() != KIND) return t;
    note_use(t.storage().unsafeGetStorageImpl(), name);
    for (auto& pair : pairs)
      if (pair.device.is_same(t)) return pair.cpu;
    auto* source = t.storage().unsafeGetStorageImpl();
    auto found = storages.find(source);
    if (found == storages.end()) {
      c10::DataPtr data(source->mutable_data(), c10::Device(c10::kCPU));
      found = storages.emplace(source, c10::Storage(c10::Storage::use_byte_size_t(), source->nbytes(), std::move(data),
                                                    c10::GetCPUAllocator(), true)).first;
    }
    auto alias = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(found->second), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                          t.dtype());
    alias.unsafeGetTensorImpl()->set_storage_offset(t.storage_offset());
    alias.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides());
    if (t.unsafeGetTensorImpl()->is_wrapped_number()) alias.unsafeGetTensorImpl()->set_wrapped_number(true);
    pairs.push_back({t, alias});
    return alias;
  }

  // what an out= or in-place kernel did to the alias happens to the tensor
  void settle() {
    for (auto& [device, cpu] : pairs) {
      auto* source = device.storage().unsafeGetStorageImpl();
      if (cpu.storage().nbytes() > source->nbytes()) {
        const auto bytes = cpu.storage().nbytes();
        source->set_data_ptr_noswap(memory.adopt(cpu.storage()));
        source->set_nbytes(bytes);
      }
      if (cpu.sizes() != device.sizes() || cpu.strides() != device.strides())
        device.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides());
    }
  }

  Tensor back(const Tensor& t) {
    if (!t.defined() || t.device().type() != c10::kCPU) return t;
    for (auto& pair : pairs)
      if (pair.cpu.is_same(t)) return pair.device;
    refuse_float64(t.scalar_type());
    Tensor result;
    for (auto& pair : pairs)  // a view is an inference tensor where its base is one, whatever the mode
      if (pair.cpu.storage().unsafeGetStorageImpl() == t.storage().unsafeGetStorageImpl())
        result = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(pair.device.storage()),
                                                          pair.device.key_set(), t.dtype());
    if (!result.defined()) {
      const auto bytes = t.storage().nbytes();
      result = at::detail::make_tensor<c10::TensorImpl>(
          c10::Storage(c10::Storage::use_byte_size_t(), bytes, bytes ? memory.adopt(t.storage()) : memory.allocate(0), &memory, true),
          c10::DispatchKeySet(KEY), t.dtype());
    }
    result.unsafeGetTensorImpl()->set_storage_offset(t.storage_offset());
    result.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides());
    pairs.push_back({result, t});
    return result;
  }
};

void check_devices(const std::string& name, bool indices, const Tensor& t) {
  if (!t.defined() || t.device().type() == KIND || indices) return;
  if (t.dim() == 0 && mixing_ops().count(name)) return;
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", DEVICE, " and ", t.device(),
              "! (when checking an argument of ", name, ")");
}

struct Generator final : c10::GeneratorImpl {  // another sequence than the CPU's of the same seed, as on a GPU
  explicit Generator(at::Generator inner = at::detail::createCPUGenerator())
      : GeneratorImpl(DEVICE, c10::DispatchKeySet(KEY)), cpu(std::move(inner)) {}
  at::Generator cpu;
  uint64_t given = c10::default_rng_seed_val;
  void set_current_seed(uint64_t seed) override { given = seed; cpu.set_current_seed(seed ^ 0x9E3779B97F4A7C15ull); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return given; }
  uint64_t seed() override { const auto fresh = cpu.seed(); set_current_seed(fresh); return fresh; }
  void set_state(const c10::TensorImpl& state) override { cpu.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return cpu.unsafeGetGeneratorImpl()->get_state(); }
  Generator* clone_impl() const override { auto* copy = new Generator(cpu.clone()); copy->given = given; return copy; }
};

at::Generator& default_generator() {
  static at::Generator one = [] { auto g = at::make_generator<Generator>(); g.set_current_seed(0); return g; }();
  return one;
}

at::Generator cpu_generator(const at::Generator& g) {
  if (!g.defined()) return static_cast<Generator*>(default_generator().unsafeGetGeneratorImpl())->cpu;
  TORCH_CHECK(g.device().type() == KIND, "Expected a '", KIND, "' device type for generator but found '", g.device().type(), "'");
  return static_cast<Generator*>(g.unsafeGetGeneratorImpl())->cpu;
}

void tick(bool waits) {
  std::lock_guard<std::mutex> guard(book.lock);
  streams.queued[current_stream]++;
  if (waits) book.syncs++, streams.synchronize(current_stream);
}

void fallback(const c10::OperatorHandle& op, Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  const auto& schema = op.schema();
  const auto& name = schema.name();
  const auto count = schema.arguments().size();
  const bool index_op = name.find("index") != std::string::npos && mixing_ops().count(name);
  tick(name == "aten::_local_scalar_dense");
  Aliases aliases;
  aliases.name = name;
  auto start = stack->end() - count;
  for (size_t i = 0; i < count; i++) {
    auto& value = *(start + i);
    const bool indices = index_op && schema.arguments()[i].name() == "indices";
    if (value.isTensor()) {
      check_devices(name, indices, value.toTensor());
      value = aliases.cpu(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) { check_devices(name, indices, t); list.push_back(aliases.cpu(t)); }
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> t : value.toOptionalTensorList()) {
        if (t.has_value()) { check_devices(name, indices, *t); list.push_back(aliases.cpu(*t)); }
        else list.push_back(std::nullopt);
      }
      value = list;
    } else if (value.isDevice()) {
      value = c10::Device(c10::kCPU);
    } else if (value.isGenerator() || (value.isNone() && schema.arguments()[i].name() == "generator")) {
      value = cpu_generator(value.isNone() ? at::Generator() : value.toGenerator());
    }
  }
  op.callBoxed(stack);
  aliases.settle();
  const auto results = schema.returns().size();
  for (size_t i = 0; i < results; i++) {
    auto& value = *(stack->end() - results + i);
    if (value.isTensor()) value = aliases.back(value.toTensor());
    else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(aliases.back(t));
      value = list;
    }
  }
}

Tensor& copy_(Tensor& self, const Tensor& source, bool without_waiting) {
  at::AutoDispatchBelowADInplaceOrView below;
  {
    std::lock_guard<std::mutex> guard(book.lock);
    streams.queued[current_stream]++;
    if (self.device() != source.device() && !without_waiting) streams.synchronize(current_stream);
    if (self.device().type() != KIND) book.to_host++;
    else if (source.device().type() != KIND) book.to_device++;
  }
  Aliases aliases;
  aliases.name = "copy_";
  aliases.cpu(self).copy_(aliases.cpu(source));
  return self;
}

}  // namespace
