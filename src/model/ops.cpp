#include "archon/model/ops.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "archon/base/error.hpp"
#include "archon/parallel/dispatch.hpp"
#include "device_ops.hpp"
#include "kernels.hpp"

namespace archon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows per task. Weight gradients are summed per task and the tasks' sums in order, so that the
// bits do not depend on the number of threads.
constexpr int64_t kTaskRows = 64;

template <class Body>
void for_row_tasks(int64_t rows, const Body& body) {
  const int64_t tasks = (rows + kTaskRows - 1) / kTaskRows;
  at::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t begin = task * kTaskRows;
      body(task, begin, std::min(kTaskRows, rows - begin));
    }
  });
}

at::Tensor partial_sums(int64_t rows, int64_t width) {
  return at::zeros({(rows + kTaskRows - 1) / kTaskRows, width}, at::kFloat);
}

template <class T>
const T* data_or_null(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<T>() : nullptr;
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    if (!x.is_cpu()) {
      const device_ops::Normed normed = device_ops::rms_norm(x, weight, eps);
      context->save_for_backward({x, weight, normed.inv_rms});
      return normed.y;
    }
    const int64_t rows = x.size(0), width = x.size(1);
    at::Tensor y = at::empty_like(x), inv_rms = at::empty({rows}, at::kFloat);
    dispatch(x, [&]<class T>(T*) {
      for_row_tasks(rows, [&](int64_t, int64_t begin, int64_t count) {
        kernels::rms_norm(y.data_ptr<T>() + begin * width, inv_rms.data_ptr<float>() + begin,
                          x.const_data_ptr<T>() + begin * width, weight.const_data_ptr<T>(), count,
                          width, static_cast<float>(eps));
      });
    });
    context->save_for_backward({x, weight, inv_rms});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inv_rms = saved[2];
    const at::Tensor y_grad = grads[0].contiguous();
    if (!x.is_cpu()) {
      const auto device = device_ops::rms_norm_backward(y_grad, x, inv_rms, weight);
      return {device.x, device.weight.to(weight.scalar_type()), at::Tensor()};
    }
    const int64_t rows = x.size(0), width = x.size(1);
    at::Tensor x_grad = at::empty_like(x), weight_grads = partial_sums(rows, width);
    dispatch(x, [&]<class T>(T*) {
      for_row_tasks(rows, [&](int64_t task, int64_t begin, int64_t count) {
        kernels::rms_norm_backward(
            x_grad.data_ptr<T>() + begin * width, weight_grads.data_ptr<float>() + task * width,
            y_grad.const_data_ptr<T>() + begin * width, x.const_data_ptr<T>() + begin * width,
            inv_rms.const_data_ptr<float>() + begin, weight.const_data_ptr<T>(), count, width);
      });
    });
    return {x_grad, weight_grads.sum(0).to(weight.scalar_type()), at::Tensor()};
  }
};

struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up) {
    if (!gate_up.is_cpu()) {
      context->save_for_backward({gate_up});
      return device_ops::swiglu(gate_up);
    }
    const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
    at::Tensor y = at::empty({rows, width}, gate_up.options());
    dispatch(gate_up, [&]<class T>(T*) {
      for_row_tasks(rows, [&](int64_t, int64_t begin, int64_t count) {
        kernels::swiglu(y.data_ptr<T>() + begin * width,
                        gate_up.const_data_ptr<T>() + 2 * begin * width, count, width);
      });
    });
    context->save_for_backward({gate_up});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const at::Tensor y_grad = grads[0].contiguous();
    if (!gate_up.is_cpu()) return {device_ops::swiglu_backward(y_grad, gate_up)};
    const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
    at::Tensor grad = at::empty_like(gate_up);
    dispatch(gate_up, [&]<class T>(T*) {
      for_row_tasks(rows, [&](int64_t, int64_t begin, int64_t count) {
        kernels::swiglu_backward(grad.data_ptr<T>() + 2 * begin * width,
                                 y_grad.const_data_ptr<T>() + begin * width,
                                 gate_up.const_data_ptr<T>() + 2 * begin * width, count, width);
      });
    });
    return {grad};
  }
};

struct NormRotary : torch::autograd::Function<NormRotary> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv,
                            const std::optional<at::Tensor>& maybe_query_norm,
                            const std::optional<at::Tensor>& maybe_key_norm, const at::Tensor& cos,
                            const at::Tensor& sin, int64_t heads, int64_t kv_heads, double eps) {
    const at::Tensor query_norm = maybe_query_norm.value_or(at::Tensor());
    const at::Tensor key_norm = maybe_key_norm.value_or(at::Tensor());
    const kernels::HeadLayout layout{heads, kv_heads, qkv.size(2)};
    const int64_t tokens = qkv.size(0), row = layout.total() * layout.head_dim;
    const int64_t turned = heads + kv_heads, half = layout.head_dim / 2;
    at::Tensor y, inv_rms;
    if (qkv.is_cpu()) {
      y = at::empty_like(qkv), inv_rms = at::empty({tokens, turned}, at::kFloat);
      dispatch(qkv, [&]<class T>(T*) {
        for_row_tasks(tokens, [&](int64_t, int64_t begin, int64_t count) {
          kernels::norm_rotary(
              y.data_ptr<T>() + begin * row, inv_rms.data_ptr<float>() + begin * turned,
              qkv.const_data_ptr<T>() + begin * row, data_or_null<T>(query_norm),
              data_or_null<T>(key_norm), cos.const_data_ptr<float>() + begin * half,
              sin.const_data_ptr<float>() + begin * half, count, layout, static_cast<float>(eps));
        });
      });
    } else {
      const auto device = device_ops::norm_rotary(qkv, query_norm, key_norm, cos, sin, layout, eps);
      y = device.y, inv_rms = device.inv_rms;
    }
    // Without a norm the rotation's gradient needs no input.
    context->save_for_backward(
        {query_norm.defined() ? qkv : at::Tensor(), query_norm, key_norm, cos, sin, inv_rms});
    context->saved_data["heads"] = heads;
    context->saved_data["kv_heads"] = kv_heads;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &qkv = saved[0], &query_norm = saved[1], &key_norm = saved[2];
    const at::Tensor &cos = saved[3], &sin = saved[4], &inv_rms = saved[5];
    const at::Tensor y_grad = grads[0].contiguous();
    const kernels::HeadLayout layout{context->saved_data["heads"].toInt(),
                                     context->saved_data["kv_heads"].toInt(), y_grad.size(2)};
    const auto results = [&](const at::Tensor& x_grad, const at::Tensor& query_grad,
                             const at::Tensor& key_grad) -> variable_list {
      const auto as = [](const at::Tensor& grad, const at::Tensor& weight) {
        return weight.defined() ? grad.to(weight.scalar_type()) : at::Tensor();
      };
      variable_list all(8);  // the others are no tensors, or need no gradient
      all[0] = x_grad, all[1] = as(query_grad, query_norm), all[2] = as(key_grad, key_norm);
      return all;
    };
    if (!y_grad.is_cpu()) {
      const auto device = device_ops::norm_rotary_backward(y_grad, qkv, inv_rms, query_norm,
                                                           key_norm, cos, sin, layout);
      return results(device.qkv, device.query_norm, device.key_norm);
    }
    const int64_t tokens = y_grad.size(0), d = layout.head_dim, row = layout.total() * d;
    at::Tensor x_grad = at::empty_like(y_grad);
    at::Tensor query_grads = partial_sums(tokens, d), key_grads = partial_sums(tokens, d);
    dispatch(y_grad, [&]<class T>(T*) {
      for_row_tasks(tokens, [&](int64_t task, int64_t begin, int64_t count) {
        kernels::norm_rotary_backward(
            x_grad.data_ptr<T>() + begin * row, query_grads.data_ptr<float>() + task * d,
            key_grads.data_ptr<float>() + task * d, y_grad.const_data_ptr<T>() + begin * row,
            qkv.defined() ? qkv.const_data_ptr<T>() + begin * row
                          : y_grad.const_data_ptr<T>() + begin * row,
            inv_rms.const_data_ptr<float>() + begin * (layout.heads + layout.kv_heads),
            data_or_null<T>(query_norm), data_or_null<T>(key_norm),
            cos.const_data_ptr<float>() + begin * (d / 2),
            sin.const_data_ptr<float>() + begin * (d / 2), count, layout);
      });
    });
    return results(x_grad, query_grads.sum(0), key_grads.sum(0));
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RmsNorm::apply(x.contiguous(), weight, eps);
}

at::Tensor swiglu(const at::Tensor& gate_up) { return SwiGlu::apply(gate_up.contiguous()); }

RotaryTable rotary_table(const at::Tensor& positions, int64_t head_dim, double theta) {
  // Rounded step by step as transformers does it: at large positions a last-bit difference in a
  // frequency is a visible angle.
  const at::Tensor exponent = at::arange(0, head_dim, 2, positions.options()).to(at::kFloat) /
                              static_cast<double>(head_dim);
  const at::Tensor frequency = at::pow(theta, exponent).reciprocal();
  const at::Tensor angle = at::outer(positions.to(at::kFloat), frequency);
  return {angle.cos(), angle.sin()};
}

at::Tensor query_key_norm_rotary(const at::Tensor& qkv, const at::Tensor& query_norm,
                                 const at::Tensor& key_norm, const RotaryTable& table,
                                 int64_t heads, int64_t kv_heads, double eps) {
  ARCHON_EXPECT(qkv.size(1) == heads + 2 * kv_heads);
  ARCHON_ENSURE(qkv.size(2) <= kernels::kMaxHeadDim,
                "heads of {} elements are wider than {}, the widest that are implemented",
                qkv.size(2), kernels::kMaxHeadDim);
  // Autograd takes an absent tensor as nullopt only.
  const auto optional = [](const at::Tensor& x) {
    return x.defined() ? std::optional(x) : std::nullopt;
  };
  return NormRotary::apply(qkv.contiguous(), optional(query_norm), optional(key_norm), table.cos,
                           table.sin, heads, kv_heads, eps);
}

}  // namespace archon
