#include "archon/engine/step_meter.hpp"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

#include "archon/base/memory.hpp"
#include "archon/comm/gpu_runtime.hpp"

namespace archon {
namespace {

constexpr auto kIo = static_cast<std::size_t>(Activity::io);

}  // namespace

int64_t peak_memory_of(const Mesh& mesh) {
  return mesh.gpu() != nullptr ? mesh.gpu()->peak_memory_bytes() : peak_memory_bytes();
}

StepMeter::StepMeter(const Mesh& mesh)
    : mesh_(mesh),
      begin_(activity_seconds()),
      end_(begin_),
      before_(mesh.traffic()),
      sent_(before_) {}

void StepMeter::begin() {
  start_ = Clock::now();
  begin_ = activity_seconds();
  begin_[kIo] = end_[kIo];
  before_ = mesh_.traffic();
}

void StepMeter::end() {
  end_ = activity_seconds();
  seconds_ = std::chrono::duration<double>(Clock::now() - start_).count();
  for (std::size_t i = 0; i < spent_.size(); ++i) spent_[i] = end_[i] - begin_[i];
  sent_ = mesh_.traffic();
  for (std::size_t i = 0; i < sent_.size(); ++i) sent_[i].sent = sent_[i].sent - before_[i].sent;
}

std::vector<double> StepMeter::figures() const {
  std::vector<double> figures(spent_.begin(), spent_.end());
  figures.push_back(static_cast<double>(peak_memory_of(mesh_)));
  for (const AxisTraffic& axis : sent_) {
    figures.push_back(static_cast<double>(axis.sent.bytes));
    figures.push_back(static_cast<double>(axis.sent.messages));
  }
  return figures;
}

StepCost StepMeter::gather(int64_t wish) const {
  std::vector<double> mine = figures();
  mine.push_back(static_cast<double>(wish));
  const auto count = static_cast<int64_t>(mine.size());
  const int64_t ranks = mesh_.world().size();
  const at::Tensor all = at::empty({ranks, count}, at::kDouble);
  const at::Tensor row = at::empty({1, count}, at::kDouble);
  std::copy(mine.begin(), mine.end(), row.mutable_data_ptr<double>());
  mesh_.world().all_gather(all, row);

  std::vector<double> largest = mine, mean(mine.size(), 0.0);
  const double* const values = all.const_data_ptr<double>();
  for (int64_t rank = 0; rank < ranks; ++rank)
    for (int64_t i = 0; i < count; ++i) {
      const double value = values[rank * count + i];
      largest[i] = std::max(largest[i], value);
      mean[i] += value / static_cast<double>(ranks);
    }

  StepCost cost;
  const double* next = largest.data();
  std::copy_n(mean.begin(), cost.mean.size(), cost.mean.begin());
  for (double& seconds : cost.largest) seconds = *next++;
  cost.peak_memory_bytes = static_cast<int64_t>(*next++);
  cost.sent = sent_;
  for (AxisTraffic& axis : cost.sent) {
    axis.sent.bytes = static_cast<int64_t>(*next++);
    axis.sent.messages = static_cast<int64_t>(*next++);
  }
  cost.wish = static_cast<int64_t>(*next++);
  return cost;
}

}  // namespace archon
