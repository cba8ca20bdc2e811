#pragma once

#include "archon/base/host_device.hpp"
#include "softmax_rows.hpp"

/// softmax_rows on a GPU, on its current stream.
namespace archon::softmax_rows::cuda {

void statistics(const at::Tensor& logits, const at::Tensor& labels, const Place& place,
                const at::Tensor& stats);
void merge_ranks(const at::Tensor& of_ranks, float scale, const at::Tensor& whole);
void log_probs(const at::Tensor& whole, float scale, const at::Tensor& result);
void entropies(const at::Tensor& whole, const at::Tensor& result);
void differentiate(const at::Tensor& logits, const at::Tensor& labels, const Place& place,
                   const at::Tensor& grad, const at::Tensor& entropy_grad, const at::Tensor& whole);

}  // namespace archon::softmax_rows::cuda
