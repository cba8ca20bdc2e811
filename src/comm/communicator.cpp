#include "archon/comm/communicator.hpp"

#include <ATen/ops/empty.h>

#include "archon/base/error.hpp"
#include "archon/base/intern.hpp"
#include "blocks.hpp"
#include "gpu_backend.hpp"
#include "mpi_backend.hpp"

namespace archon {
namespace {

void check_tensor(const at::Tensor& tensor, const char* operation) {
  ARCHON_ENSURE(tensor.defined() && tensor.is_contiguous(),
                "{}: Communicator takes contiguous tensors", operation);
}

int64_t row_elements(const at::Tensor& tensor) {
  int64_t product = 1;
  for (int64_t dim = 1; dim < tensor.dim(); ++dim) product *= tensor.size(dim);
  return product;
}

// Element counts of the blocks of `tensor` along dim 0; equal blocks where `rows` is empty.
Blocks blocks_of(const at::Tensor& tensor, std::vector<int64_t> rows, int size,
                 const char* operation) {
  ARCHON_ENSURE(tensor.dim() > 0, "{}: a scalar has no rows to split; reshape it to [1]",
                operation);
  if (rows.empty()) {
    ARCHON_ENSURE(tensor.size(0) % size == 0,
                  "{}: {} rows do not split into {} equal blocks; give the rows of each block",
                  operation, tensor.size(0), size);
    rows.assign(size, tensor.size(0) / size);
  }
  ARCHON_ENSURE(static_cast<int>(rows.size()) == size, "{}: {} block sizes for {} ranks", operation,
                rows.size(), size);
  const int64_t elements = row_elements(tensor);
  for (int64_t& count : rows) count *= elements;
  Blocks blocks(std::move(rows));
  ARCHON_ENSURE(blocks.total() == tensor.numel(), "{}: blocks hold {} elements, the tensor {}",
                operation, blocks.total(), tensor.numel());
  return blocks;
}

}  // namespace

Communicator::Communicator(MpiComm comm, std::string name)
    : comm_(std::move(comm)), name_(intern(name)) {
  if (comm_.get() == MPI_COMM_NULL) return;
  ARCHON_MPI(MPI_Comm_rank(comm_.get(), &rank_));
  ARCHON_MPI(MPI_Comm_size(comm_.get(), &size_));
  if (size_ > 1) host_ = std::make_unique<MpiBackend>(comm_.get(), rank_, size_);
}

Communicator Communicator::self() { return Communicator(MpiComm(), "self"); }

Communicator Communicator::shape_only(int rank, int size, std::string name) {
  Communicator group(MpiComm(), std::move(name));
  group.rank_ = rank;
  group.size_ = size;
  return group;
}

Traffic& Traffic::operator+=(const Traffic& other) {
  bytes += other.bytes;
  messages += other.messages;
  return *this;
}

Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&&) noexcept = default;
Communicator::~Communicator() = default;

void Communicator::set_max_count(int64_t elements) {
  if (host_) host_->set_max_count(elements);
}

void Communicator::make_gpu_backend(GpuRuntime& runtime, void* comm) {
  MPI_Comm roll = MPI_COMM_NULL;
  {
    const CollectiveScope scope("copy of the communicator", name_, 1);
    ARCHON_MPI(MPI_Comm_dup(comm_.get(), &roll));
  }
  gpu_ = std::make_unique<GpuBackend>(runtime, comm, MpiComm(roll), name_);
}

void Communicator::use_gpu(GpuRuntime& runtime) {
  if (size_ == 1) return;
  GpuRuntime::UniqueId id = {};
  if (rank_ == 0) id = runtime.unique_id();
  ARCHON_MPI(MPI_Bcast(id.data(), static_cast<int>(id.size()), MPI_BYTE, 0, comm_.get()));
  make_gpu_backend(runtime, runtime.init(id, size_, rank_));
}

void Communicator::use_gpu_of(const Communicator& whole) {
  if (whole.size() == 1) return;
  int color = GpuRuntime::kNoColor;
  if (size_ > 1) {
    color = whole.rank();
    ARCHON_MPI(MPI_Bcast(&color, 1, MPI_INT, 0, comm_.get()));
  }
  const GpuRuntime::Comm part = whole.gpu_->split(color, rank_);
  if (size_ > 1) make_gpu_backend(whole.gpu_->runtime(), part);
}

Operation Communicator::begin(const char* name, const Traffic& sent, bool async) const {
  sent_ += sent;
  return {name, name_, ++started_, sent.bytes, async};
}

Backend& Communicator::backend_of(const at::Tensor& tensor, const char* operation) const {
  if (gpu_ && gpu_->runtime().owns(tensor)) return *gpu_;
  ARCHON_ENSURE(tensor.device().is_cpu(),
                "{} over {}: a tensor on {}, but the group exchanges host tensors only", operation,
                name_, tensor.device().str());
  ARCHON_ENSURE(host_, "{} over {}: a group on paper cannot communicate", operation, name_);
  return *host_;
}

Work Communicator::all_reduce_impl(at::Tensor tensor, ReduceOp op, bool async) const {
  check_tensor(tensor, "all_reduce");
  if (size_ == 1 || tensor.numel() == 0) return Work();
  const auto bytes = static_cast<int64_t>(tensor.nbytes());
  Traffic sent;
  if (bytes <= kSmallReduceBytes) {
    sent = to_others(bytes * (size_ - 1));
  } else {
    const auto own_bytes = static_cast<int64_t>(
        Blocks::balanced(size_, tensor.numel()).counts[rank_] * tensor.element_size());
    sent = to_others(bytes - own_bytes);
    sent += to_others(own_bytes * (size_ - 1));
  }
  return backend_of(tensor, "all_reduce")
      .all_reduce(begin("all_reduce", sent, async), tensor.view({-1}), op);
}

Work Communicator::all_gather_impl(at::Tensor output, const at::Tensor& input,
                                   std::vector<int64_t> rows, bool async) const {
  check_tensor(output, "all_gather");
  check_tensor(input, "all_gather");
  Blocks blocks = blocks_of(output, std::move(rows), size_, "all_gather");
  ARCHON_ENSURE(
      blocks.counts[rank_] == input.numel() && output.scalar_type() == input.scalar_type(),
      "all_gather: the input ({} elements) is not this rank's block of the output ({})",
      input.numel(), blocks.counts[rank_]);
  if (size_ == 1) {
    if (output.const_data_ptr() != input.const_data_ptr()) output.view_as(input).copy_(input);
    return Work();
  }
  return backend_of(input, "all_gather")
      .all_gather(begin("all_gather", to_others(input.nbytes() * (size_ - 1)), async), output,
                  input, std::move(blocks));
}

Work Communicator::reduce_scatter_impl(at::Tensor output, const at::Tensor& input,
                                       std::vector<int64_t> rows, bool async) const {
  check_tensor(output, "reduce_scatter");
  check_tensor(input, "reduce_scatter");
  const bool even = rows.empty();
  Blocks blocks = blocks_of(input, std::move(rows), size_, "reduce_scatter");
  const int64_t mine = blocks.counts[rank_];
  const bool widens =
      output.scalar_type() == at::kFloat && c10::isReducedFloatingType(input.scalar_type());
  ARCHON_ENSURE(mine == output.numel() && (widens || output.scalar_type() == input.scalar_type()),
                "reduce_scatter: the output ({} elements) is not this rank's block of the input "
                "({})",
                output.numel(), mine);
  if (size_ == 1) {
    output.view_as(input).copy_(input);
    return Work();
  }
  const Traffic sent = to_others((input.numel() - mine) * input.element_size());
  return backend_of(input, "reduce_scatter")
      .reduce_scatter(begin("reduce_scatter", sent, async), output, input, std::move(blocks), even);
}

Work Communicator::all_to_all_impl(at::Tensor output, const at::Tensor& input,
                                   std::vector<int64_t> output_rows,
                                   std::vector<int64_t> input_rows, bool async) const {
  check_tensor(output, "all_to_all");
  check_tensor(input, "all_to_all");
  ARCHON_ENSURE(output_rows.empty() == input_rows.empty(),
                "all_to_all: give the rows of both the output's and the input's blocks, or none");
  const bool even = input_rows.empty();
  Blocks in = blocks_of(input, std::move(input_rows), size_, "all_to_all");
  Blocks out = blocks_of(output, std::move(output_rows), size_, "all_to_all");
  ARCHON_ENSURE(
      output.scalar_type() == input.scalar_type() && in.counts[rank_] == out.counts[rank_],
      "all_to_all: input and output do not match");
  if (size_ == 1) {
    output.view({-1}).copy_(input.view({-1}));
    return Work();
  }
  const Traffic sent = to_others((in.total() - in.counts[rank_]) * input.element_size());
  return backend_of(input, "all_to_all")
      .all_to_all(begin("all_to_all", sent, async), output, std::move(out), input, std::move(in),
                  even);
}

void Communicator::exchange_others(at::Tensor output, const at::Tensor& input) const {
  check_tensor(output, "exchange_others");
  check_tensor(input, "exchange_others");
  ARCHON_ENSURE(output.scalar_type() == input.scalar_type() && output.numel() == input.numel(),
                "exchange_others: input and output do not match");
  if (size_ == 1) return;
  const int64_t block = blocks_of(input, {}, size_, "exchange_others").counts.front();
  const Traffic sent = to_others((input.numel() - block) * input.element_size());
  backend_of(input, "exchange_others")
      .exchange_others(begin("exchange_others", sent, /*async=*/false), output, input);
}

Work Communicator::broadcast_impl(at::Tensor tensor, int root, bool async) const {
  check_tensor(tensor, "broadcast");
  if (size_ == 1) return Work();
  const Traffic sent = rank_ == root ? to_others(tensor.nbytes() * (size_ - 1)) : Traffic();
  return backend_of(tensor, "broadcast").broadcast(begin("broadcast", sent, async), tensor, root);
}

// Hosts meet, whatever their GPUs still do.
Work Communicator::barrier_impl(bool async) const {
  if (size_ == 1) return Work();
  return host_->barrier(begin("barrier", Traffic(), async));
}

void Communicator::all_reduce(at::Tensor tensor, ReduceOp op) const {
  all_reduce_impl(std::move(tensor), op, false).wait();
}
Work Communicator::all_reduce_async(at::Tensor tensor, ReduceOp op) const {
  return all_reduce_impl(std::move(tensor), op, true);
}
void Communicator::all_gather(at::Tensor output, const at::Tensor& input,
                              const std::vector<int64_t>& rows) const {
  all_gather_impl(std::move(output), input, rows, false).wait();
}
Work Communicator::all_gather_async(at::Tensor output, const at::Tensor& input,
                                    const std::vector<int64_t>& rows) const {
  return all_gather_impl(std::move(output), input, rows, true);
}
void Communicator::reduce_scatter(at::Tensor output, const at::Tensor& input,
                                  const std::vector<int64_t>& rows) const {
  reduce_scatter_impl(std::move(output), input, rows, false).wait();
}
Work Communicator::reduce_scatter_async(at::Tensor output, const at::Tensor& input,
                                        const std::vector<int64_t>& rows) const {
  return reduce_scatter_impl(std::move(output), input, rows, true);
}
void Communicator::all_to_all(at::Tensor output, const at::Tensor& input,
                              const std::vector<int64_t>& output_rows,
                              const std::vector<int64_t>& input_rows) const {
  all_to_all_impl(std::move(output), input, output_rows, input_rows, false).wait();
}
Work Communicator::all_to_all_async(at::Tensor output, const at::Tensor& input,
                                    const std::vector<int64_t>& output_rows,
                                    const std::vector<int64_t>& input_rows) const {
  return all_to_all_impl(std::move(output), input, output_rows, input_rows, true);
}
void Communicator::broadcast(at::Tensor tensor, int root) const {
  broadcast_impl(std::move(tensor), root, false).wait();
}
Work Communicator::broadcast_async(at::Tensor tensor, int root) const {
  return broadcast_impl(std::move(tensor), root, true);
}
void Communicator::barrier() const { barrier_impl(false).wait(); }
Work Communicator::barrier_async() const { return barrier_impl(true); }

double Communicator::all_reduce(double value, ReduceOp op) const {
  if (size_ == 1) return value;
  at::Tensor cell = at::empty({1}, at::kDouble);
  *cell.data_ptr<double>() = value;
  all_reduce(cell, op);
  return *cell.data_ptr<double>();
}

int64_t Communicator::all_reduce(int64_t value, ReduceOp op) const {
  if (size_ == 1) return value;
  at::Tensor cell = at::empty({1}, at::kLong);
  *cell.data_ptr<int64_t>() = value;
  all_reduce(cell, op);
  return *cell.data_ptr<int64_t>();
}

std::string Communicator::broadcast(const std::string& text, int root) const {
  if (size_ == 1) return text;
  at::Tensor length = at::empty({1}, at::kLong);
  *length.data_ptr<int64_t>() = static_cast<int64_t>(text.size());
  broadcast(length, root);
  at::Tensor bytes = at::empty({*length.data_ptr<int64_t>()}, at::kByte);
  if (rank_ == root) std::copy(text.begin(), text.end(), bytes.data_ptr<uint8_t>());
  broadcast(bytes, root);
  return std::string(reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()), bytes.numel());
}

}  // namespace archon
