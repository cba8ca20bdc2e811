#pragma once

#include <cstdint>
#include <string>

#include "archon/engine/plan.hpp"
#include "archon/io/json_fwd.hpp"

/// What `archon plan` says of meshes: tables on standard output, or JSON.
namespace archon::cli {

std::string show_mib(int64_t bytes);

/// One mesh in detail.
void print_plan(const StepPlan& plan, const BatchShape& batch);
Json to_json(const StepPlan& plan);

/// Many meshes, and why each stands where it does. `limit` = bytes that a rank may use.
void print_ranking(const MeshRanking& ranking, int64_t limit, const TrainOptions& train);
Json to_json(const MeshRanking& ranking, int64_t limit, const TrainOptions& train);

/// What a mesh spends most of its memory on, of that which can be changed, and what would help.
std::string advice(const MemoryPhase& peak, const TrainOptions& train);

}  // namespace archon::cli
