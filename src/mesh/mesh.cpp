#include "archon/mesh/mesh.hpp"

#include <array>
#include <optional>
#include <utility>

#include "archon/base/error.hpp"
#include "archon/comm/gpu_runtime.hpp"

namespace archon {
namespace {

constexpr int kLargestAxis = 1'000'000;  // the product of three still is an int64

MpiComm cart_create(const MeshShape& shape, MPI_Comm world) {
  const std::array<int, 3> dims = {shape.dp, shape.cp, shape.tp};
  const std::array<int, 3> periods = {0, 0, 0};
  MPI_Comm cart = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Cart_create(world, 3, dims.data(), periods.data(), /*reorder=*/0, &cart));
  return MpiComm(cart);
}

Communicator cart_sub(MPI_Comm cart, std::array<int, 3> keep, std::string name) {
  MPI_Comm sub = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Cart_sub(cart, keep.data(), &sub));
  return Communicator(MpiComm(sub), std::move(name));
}

}  // namespace

std::string to_string(const MeshShape& shape) {
  return fmt::format("dp {} x cp {} x tp {}", shape.dp, shape.cp, shape.tp);
}

MeshShape resolve_mesh_shape(MeshShape shape, int world_size) {
  std::array<int*, 3> axes = {&shape.dp, &shape.cp, &shape.tp};
  constexpr std::array names = {"dp", "cp", "tp"};
  std::optional<int> open;
  int64_t product = 1;
  for (int i = 0; i < 3; ++i) {
    ARCHON_VALIDATE((*axes[i] >= 1 && *axes[i] <= kLargestAxis) || *axes[i] == -1,
                    "--{} {} is no extent; give a number from 1 to {}, or -1 to have it computed",
                    names[i], *axes[i], kLargestAxis);
    if (*axes[i] == -1) {
      ARCHON_VALIDATE(!open,
                      "two axes are -1 (dp {}, cp {}, tp {}); only one can be computed; give "
                      "--{} N",
                      shape.dp, shape.cp, shape.tp, names[*open]);
      open = i;
    } else {
      product *= *axes[i];
    }
  }
  if (open) {
    ARCHON_VALIDATE(world_size % product == 0,
                    "the mesh dp {} x cp {} x tp {} does not fit {} ranks: the given axes make "
                    "{}, which does not divide {}; start a multiple of {} ranks, or change an axis",
                    shape.dp, shape.cp, shape.tp, world_size, product, world_size, product);
    *axes[*open] = static_cast<int>(world_size / product);
    product = world_size;
  }
  ARCHON_VALIDATE(product == world_size,
                  "the mesh dp {} x cp {} x tp {} needs {} ranks, but {} were started; start {} "
                  "ranks, or give one axis as -1 to have it computed",
                  shape.dp, shape.cp, shape.tp, product, world_size, product);
  return shape;
}

template <class MakeGroup>
Mesh::Mesh(MeshShape shape, int rank, const MakeGroup& make_group)
    : shape_(shape),
      world_(make_group("world", rank, shape.size())),
      dp_(make_group("dp", rank / (shape.cp * shape.tp), shape.dp)),
      cp_(make_group("cp", rank / shape.tp % shape.cp, shape.cp)),
      tp_(make_group("tp", rank % shape.tp, shape.tp)),
      model_parallel_(make_group("model_parallel", rank % (shape.cp * shape.tp),
                                 shape.cp * shape.tp)),
      shard_group_(make_group("shard_group", rank / shape.tp, shape.dp * shape.cp)) {}

Mesh Mesh::self() {
  return Mesh({1, 1, 1}, 0, [](const char*, int, int) { return Communicator::self(); });
}

Mesh Mesh::shape_only(MeshShape shape, int rank) {
  return Mesh(shape, rank, [](const char* name, int group_rank, int size) {
    return Communicator::shape_only(group_rank, size, name);
  });
}

Mesh::Mesh(MeshShape shape, MPI_Comm world)
    : shape_(shape),
      world_(cart_create(shape, world), "world"),
      dp_(cart_sub(world_.mpi(), {1, 0, 0}, "dp")),
      cp_(cart_sub(world_.mpi(), {0, 1, 0}, "cp")),
      tp_(cart_sub(world_.mpi(), {0, 0, 1}, "tp")),
      model_parallel_(cart_sub(world_.mpi(), {0, 1, 1}, "model_parallel")),
      shard_group_(cart_sub(world_.mpi(), {1, 1, 0}, "shard_group")) {}

void Mesh::use_gpu(std::shared_ptr<GpuRuntime> runtime) {
  gpu_ = std::move(runtime);
  world_.use_gpu(*gpu_);
  // One of these groups has the same size on every rank.
  for (Communicator* group : {&dp_, &cp_, &tp_, &model_parallel_, &shard_group_})
    if (group->size() > 1) group->use_gpu_of(world_);
}

at::Device Mesh::device() const { return gpu_ ? gpu_->device() : at::Device(at::kCPU); }

std::array<AxisTraffic, 6> Mesh::traffic() const {
  return {{{"world", world_.traffic()},
           {"dp", dp_.traffic()},
           {"cp", cp_.traffic()},
           {"tp", tp_.traffic()},
           {"model_parallel", model_parallel_.traffic()},
           {"shard", shard_group_.traffic()}}};
}

}  // namespace archon
