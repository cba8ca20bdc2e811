#include "archon/parallel/parameter_unit.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>

#include "archon/base/intern.hpp"
#include "archon/parallel/accumulate.hpp"

namespace archon {
namespace {

/// Gives a tensor new memory. Its views follow; those of a tensor without memory stay, without it.
void set_memory(const at::Tensor& tensor, std::size_t bytes) {
  const c10::Storage& storage = tensor.storage();
  storage.set_data_ptr_noswap(c10::GetAllocator(tensor.device().type())->allocate(bytes));
  storage.set_nbytes(bytes);
}

void drop_memory(const at::Tensor& tensor) { set_memory(tensor, 0); }

void provide_memory(const at::Tensor& tensor) {
  set_memory(tensor, tensor.numel() * tensor.element_size());
}

/// Replicated parameters first: they then begin at the same place on every tp rank, even where tp
/// ranks hold different numbers of rows. (Blocks may still be cut elsewhere.)
std::vector<Parameter*> replicated_first(std::vector<Parameter*> parameters) {
  std::stable_partition(parameters.begin(), parameters.end(), [](const Parameter* parameter) {
    return parameter->placement() == TpPlacement::replicated;
  });
  return parameters;
}

}  // namespace

/// Hands a gradient over as soon as autograd has it, so that a backward holds few of them.
class ParameterUnit::GradientSink : public torch::autograd::PostAccumulateGradHook {
 public:
  GradientSink(ParameterUnit& unit, std::size_t index) : unit_(unit), index_(index) {}
  void operator()(const at::Tensor&) override { unit_.take_gradient(index_); }

 private:
  ParameterUnit& unit_;
  std::size_t index_;
};

Sharding::Sharding(const ShardPolicy& policy, const Communicator& group)
    : policy_(policy), group_(&group) {
  if (group.size() == 1) policy_.mode = ShardMode::none;
}

bool Sharding::keeps_type(const Parameter& parameter) const {
  return group_->size() == 1 && !policy_.float32_gradients &&
         parameter.placement() != TpPlacement::replicated;
}

void Sharding::begin_reduction(Work work) {
  reduction_ = std::move(work);  // once the one before it is done
  if (!policy_.overlap) reduction_.wait();
}

ParameterUnit::ParameterUnit(const std::string& name, std::vector<Parameter*> parameters)
    : name_(intern(name)),
      parameters_(replicated_first(std::move(parameters))),
      arrived_(parameters_.size(), false) {}

void ParameterUnit::place(Sharding& sharding) {
  sharding_ = &sharding;
  const bool sharded = sharding.sharded();
  const int ranks = sharded ? sharding.group().size() : 1;
  int64_t total = 0;
  for (const Parameter* parameter : parameters_) total += parameter->local_numel();
  block_ = (total + ranks - 1) / ranks;
  elements_ = block_ * ranks;

  int64_t offset = 0;
  for (Parameter* parameter : parameters_) {
    parameter->place_ = {offset, block_, sharded ? sharding.group().rank() : 0, ranks};
    offset += parameter->local_numel();
  }
}

void ParameterUnit::allocate(Sharding& sharding) {
  place(sharding);
  master_ = at::empty({block_}, at::dtype(at::kFloat).device(sharding.policy().device));
  for (Parameter* parameter : parameters_) parameter->master_ = block_view(master_, *parameter);
  allocate_values();
}

at::Tensor ParameterUnit::block_view(const at::Tensor& block, const Parameter& parameter) const {
  const Range mine = parameter.owned();
  const int64_t begin = parameter.place_.offset + mine.begin - parameter.place_.rank * block_;
  return block.narrow(0, mine.size() == 0 ? 0 : begin, mine.size());
}

void ParameterUnit::allocate_values() {
  const at::ScalarType type = sharding_->policy().compute_dtype;
  const bool shares_master = !sharding_->sharded() && type == at::kFloat;
  values_ = shares_master ? master_ : at::empty({elements_}, master_.options().dtype(type));
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    // With a version of its own: what a graph keeps of it is gathered anew before backward.
    parameter.value_ = values_.narrow(0, parameter.place_.offset, parameter.local_numel())
                           .view(parameter.local_shape())
                           .variable_data();
    parameter.value_.set_requires_grad(true);
    torch::autograd::impl::set_post_acc_grad_hooks(parameter.value_,
                                                   std::make_unique<GradientSink>(*this, i));
  }
  present_ = !releases();
  if (releases()) drop_memory(values_);
}

bool ParameterUnit::releases() const { return sharding_->policy().mode == ShardMode::full; }

void ParameterUnit::start_gather() {
  if (releases()) provide_memory(values_);
  const Communicator& group = sharding_->group();
  const at::Tensor own = values_.narrow(0, group.rank() * block_, block_);
  own.copy_(master_);
  gathering_ = group.all_gather_async(values_, own);
  present_ = true;
}

void ParameterUnit::prefetch() {
  if (!present_ && sharding_->policy().overlap) start_gather();
}

void ParameterUnit::gather() {
  if (!present_) start_gather();
  gathering_.wait();
}

void ParameterUnit::release(bool after_forward) {
  if (!releases() || (after_forward && !sharding_->policy().reshard_after_forward)) return;
  gathering_.wait();
  drop_memory(values_);
  present_ = false;
}

void ParameterUnit::refresh_values() {
  if (releases()) return;
  if (sharding_->sharded())
    start_gather();
  else if (values_.scalar_type() != at::kFloat)
    values_.copy_(master_);
}

void ParameterUnit::clear_gradients() {
  grad_ = at::Tensor();
  for (Parameter* parameter : parameters_) parameter->grad_ = at::Tensor();
}

bool ParameterUnit::exchanges(const Parameter& parameter) const {
  return sharding_->sharded() && parameter.placement() != TpPlacement::replicated;
}

void ParameterUnit::take_gradient(std::size_t index) {
  const at::NoGradGuard no_grad;
  Parameter& parameter = *parameters_[index];
  const at::Tensor grad = std::exchange(parameter.value_.mutable_grad(), at::Tensor());
  if (!exchanges(parameter)) {
    add_gradient(parameter, grad);
    return;
  }
  if (!outgoing_.defined()) outgoing_ = empty_gradients();
  const at::Tensor place = outgoing_.narrow(0, parameter.place_.offset, grad.numel());
  if (arrived_[index])
    place.add_(grad.view({-1}));
  else
    place.copy_(grad.view({-1}));
  arrived_[index] = true;
}

/// The only one of a step stays as it is: float32 would hold the same numbers in twice the memory.
void ParameterUnit::add_gradient(Parameter& parameter, const at::Tensor& grad) const {
  if (parameter.grad_.defined()) {
    parameter.grad_ = parameter.grad_.to(at::kFloat);
    accumulate(parameter.grad_, grad.contiguous());
  } else {
    parameter.grad_ =
        sharding_->keeps_type(parameter) ? grad.contiguous() : grad.to(at::kFloat);
  }
}

at::Tensor ParameterUnit::empty_gradients() const {
  const ShardPolicy& policy = sharding_->policy();
  return at::empty({elements_}, values_.options().dtype(policy.float32_gradients
                                                            ? at::kFloat
                                                            : policy.compute_dtype));
}

void ParameterUnit::zero_what_did_not_arrive() {
  int64_t end = 0;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const int64_t begin = parameters_[i]->place_.offset;
    end = begin + parameters_[i]->local_numel();
    if (!arrived_[i]) outgoing_.narrow(0, begin, end - begin).zero_();
  }
  outgoing_.narrow(0, end, elements_ - end).zero_();
  std::fill(arrived_.begin(), arrived_.end(), false);
}

void ParameterUnit::reduce_gradients() {
  if (!sharding_->sharded()) return;
  if (!outgoing_.defined()) outgoing_ = empty_gradients();
  zero_what_did_not_arrive();
  const at::Tensor sum = at::empty({block_}, master_.options());
  auto work = std::make_shared<Work>(sharding_->group().reduce_scatter_async(
      sum, std::exchange(outgoing_, at::Tensor())));
  sharding_->begin_reduction(Work([this, work, sum] {
    work->wait();
    add_reduced(sum);
  }));
}

void ParameterUnit::add_reduced(const at::Tensor& sum) {
  if (grad_.defined()) {
    accumulate(grad_, sum);
    return;
  }
  grad_ = sum;
  for (Parameter* parameter : parameters_)
    if (exchanges(*parameter)) parameter->grad_ = block_view(grad_, *parameter);
}

}  // namespace archon
