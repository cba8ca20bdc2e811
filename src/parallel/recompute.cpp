#include "archon/parallel/recompute.hpp"

#include <ATen/ops/empty.h>

#include <utility>

#include "archon/base/error.hpp"

namespace archon::recomputation {
namespace {

// A segment's backward, and what it recomputes, run on one thread: the caller's for host tensors,
// autograd's thread of the device for others.
thread_local Scope* current = nullptr;

}  // namespace

Scope::Scope(Run run, Kept* kept) : run_(run), kept_(kept), outer_(current) { current = this; }

Scope::~Scope() { current = outer_; }

bool running() { return current != nullptr && current->run_ == Scope::Run::second; }

bool keeps_results() { return current != nullptr && current->kept_ != nullptr; }

Tensors reuse(const std::function<Tensors()>& compute) {
  Scope* const scope = current;
  if (scope == nullptr || scope->kept_ == nullptr) return compute();
  if (scope->run_ == Scope::Run::first) {
    scope->kept_->push_back(compute());
    return scope->kept_->back();
  }
  ARCHON_ENSURE(scope->next_ < scope->kept_->size(),
                "a recomputation asks for result {} of {} kept ones: it took another path than the "
                "forward pass",
                scope->next_ + 1, scope->kept_->size());
  Tensors results = std::exchange((*scope->kept_)[scope->next_++], {});
  // Tensors of their own: autograd gives them a history.
  for (at::Tensor& result : results) result = result.detach();
  return results;
}

at::Tensor result(WhenRecomputed use, at::IntArrayRef shape, const at::TensorOptions& options,
                  const std::function<at::Tensor()>& compute) {
  if (use == WhenRecomputed::skip && running()) return at::empty(shape, options);
  if (use == WhenRecomputed::reuse) return reuse([&] { return Tensors{compute()}; }).front();
  return compute();
}

}  // namespace archon::recomputation
