#include "archon/checkpoint/token_outputs.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <numeric>

namespace archon {

at::Tensor whole_stream(const at::Tensor& share, const Mesh& mesh) {
  // The group's ranks are cp-major, as the shares lie in the stream.
  const Communicator& group = mesh.model_parallel();
  auto shape = share.sizes().vec();
  shape[0] *= group.size();
  at::Tensor stream = at::empty(shape, share.options());
  group.all_gather(stream, share.contiguous());
  return stream;
}

at::Tensor gather_rows_over_dp(const at::Tensor& rows, const Communicator& dp) {
  if (dp.size() == 1) return rows.contiguous();
  const at::Tensor mine = at::tensor({rows.size(0)}, at::kLong);
  at::Tensor counts = at::empty({dp.size()}, at::kLong);
  dp.all_gather(counts, mine);
  const auto* data = counts.const_data_ptr<int64_t>();
  const std::vector<int64_t> sizes(data, data + dp.size());
  auto shape = rows.sizes().vec();
  shape[0] = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  at::Tensor all = at::empty(shape, rows.options());
  dp.all_gather(all, rows.contiguous(), sizes);
  return all;
}

void TokenOutputs::create(const std::string& dataset, const std::vector<int64_t>& row_shape,
                          int64_t rows) {
  if (file_ != nullptr) file_->create_rows(dataset, row_shape, at::kFloat, rows);
}

void TokenOutputs::write(const std::string& dataset, const at::Tensor& stream,
                         const TokenPlaces& places) {
  if (!mesh_.is_data_parallel_head()) return;
  std::vector<int64_t> lengths(places.file_rows.size());
  for (std::size_t i = 0; i < lengths.size(); ++i)
    lengths[i] = places.cu_seqlens[i + 1] - places.cu_seqlens[i];
  const at::Tensor rows =
      gather_rows_over_dp(stream.narrow(0, 0, places.cu_seqlens.back()).to(at::kCPU, at::kFloat),
                          mesh_.dp());
  const at::Tensor all_lengths = gather_rows_over_dp(at::tensor(lengths, at::kLong), mesh_.dp());
  const at::Tensor all_places =
      gather_rows_over_dp(at::tensor(places.file_rows, at::kLong), mesh_.dp());
  if (file_ == nullptr) return;
  int64_t at = 0;
  for (int64_t i = 0; i < all_lengths.size(0); ++i) {
    const int64_t length = all_lengths.const_data_ptr<int64_t>()[i];
    file_->write_rows(dataset, all_places.const_data_ptr<int64_t>()[i], rows.narrow(0, at, length));
    at += length;
  }
}

}  // namespace archon
