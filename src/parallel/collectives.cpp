#include "archon/parallel/collectives.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <numeric>

namespace archon::differentiable {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Rows = std::vector<int64_t>;
using Map = std::function<at::Tensor(const at::Tensor&)>;

/// A linear map of one tensor with a known adjoint; each collective below is one.
struct LinearMap : torch::autograd::Function<LinearMap> {
  /// Keeps the adjoint in autograd's own context.
  struct Holder : torch::CustomClassHolder {
    Map adjoint;
  };

  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Map& map,
                            const Map& adjoint) {
    auto holder = c10::make_intrusive<Holder>();
    holder->adjoint = adjoint;
    context->saved_data["adjoint"] = c10::IValue::make_capsule(std::move(holder));
    return map(x.contiguous());
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto capsule = context->saved_data["adjoint"].toCapsule();
    const auto& adjoint = static_cast<const Holder&>(*capsule).adjoint;
    return {adjoint(grads[0].contiguous()), at::Tensor(), at::Tensor()};
  }
};

at::Tensor empty_rows(const at::Tensor& like, int64_t rows) {
  auto shape = like.sizes().vec();
  shape[0] = rows;
  return at::empty(shape, like.options());
}

int64_t total(const Rows& rows) { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }

Map gather_map(const Communicator& comm, const Rows& rows) {
  return [&comm, rows](const at::Tensor& x) {
    at::Tensor y = empty_rows(x, rows.empty() ? x.size(0) * comm.size() : total(rows));
    comm.all_gather(y, x, rows);
    return y;
  };
}

Map scatter_map(const Communicator& comm, const Rows& rows,
                WhenRecomputed use = WhenRecomputed::compute) {
  return [&comm, rows, use](const at::Tensor& x) {
    auto shape = x.sizes().vec();
    shape[0] = rows.empty() ? x.size(0) / comm.size() : rows[comm.rank()];
    return recomputation::result(use, shape, x.options(), [&] {
      at::Tensor y = at::empty(shape, x.options());
      comm.reduce_scatter(y, x, rows);
      return y;
    });
  };
}

Map exchange_map(const Communicator& comm, const Rows& output_rows, const Rows& input_rows) {
  return [&comm, output_rows, input_rows](const at::Tensor& x) {
    at::Tensor y = empty_rows(x, output_rows.empty() ? x.size(0) : total(output_rows));
    comm.all_to_all(y, x, output_rows, input_rows);
    return y;
  };
}

}  // namespace

at::Tensor all_gather(const at::Tensor& x, const Communicator& comm, const Rows& rows) {
  if (comm.size() == 1) return x;
  return LinearMap::apply(x, gather_map(comm, rows), scatter_map(comm, rows));
}

at::Tensor reduce_scatter(const at::Tensor& x, const Communicator& comm, const Rows& rows,
                          WhenRecomputed use) {
  if (comm.size() == 1) return x;
  return LinearMap::apply(x, scatter_map(comm, rows, use), gather_map(comm, rows));
}

at::Tensor all_to_all(const at::Tensor& x, const Communicator& comm, const Rows& output_rows,
                      const Rows& input_rows) {
  if (comm.size() == 1) return x;
  return LinearMap::apply(x, exchange_map(comm, output_rows, input_rows),
                          exchange_map(comm, input_rows, output_rows));
}

at::Tensor all_reduce(const at::Tensor& x, const Communicator& comm) {
  if (comm.size() == 1) return x;
  const Map map = [&comm](const at::Tensor& value) {
    at::Tensor sum = value.clone();
    comm.all_reduce(sum);
    return sum;
  };
  return LinearMap::apply(x, map, map);
}

at::Tensor broadcast(const at::Tensor& x, int root, const Communicator& comm) {
  if (comm.size() == 1) return x;
  const Map map = [&comm, root](const at::Tensor& value) {
    at::Tensor copy = value.clone();
    comm.broadcast(copy, root);
    return copy;
  };
  const Map adjoint = [&comm, root](const at::Tensor& grad) {
    at::Tensor sum = grad.clone();
    comm.all_reduce(sum);
    return comm.rank() == root ? sum : at::zeros_like(sum);
  };
  return LinearMap::apply(x, map, adjoint);
}

}  // namespace archon::differentiable
