// Reduction and norm of gradients on every mesh, sharded or not, against their definition on whole
// tensors.
#include "archon/optim/gradients.hpp"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <limits>
#include <memory>

#include "support/meshes.hpp"
#include "support/mpi_main.hpp"
#include "support/tensors.hpp"

using archon::Mesh;
using archon::MeshShape;
using archon::Parameter;
using archon::ParameterUnit;
using archon::Sharding;
using archon::ShardMode;
using archon::TpPlacement;
using archon::test::noise;

namespace {

constexpr TpPlacement kPlacements[] = {TpPlacement::replicated, TpPlacement::rows,
                                       TpPlacement::columns};
constexpr ShardMode kModes[] = {ShardMode::none, ShardMode::optimizer, ShardMode::full};

/// One parameter of each placement, 13 rows each: no number of ranks divides them.
struct Parameters {
  Parameters(const Mesh& mesh, ShardMode mode) : sharding({.mode = mode}, mesh.shard_group()) {
    std::vector<Parameter*> pointers;
    for (const TpPlacement placement : kPlacements) {
      const std::string name = "weight" + std::to_string(all.size());
      all.push_back(std::make_unique<Parameter>(
          archon::ParameterSpec{{{name, {13, 6}}}, placement}));
      all.back()->set_tp(mesh.tp_rank(), mesh.shape().tp);
      pointers.push_back(all.back().get());
    }
    unit = std::make_unique<ParameterUnit>("unit", pointers);
    unit->allocate(sharding);
  }

  /// As a backward does that gives parameter `i` the gradient [local_shape()] `gradients[i]`.
  void backward(const std::vector<at::Tensor>& gradients) {
    unit->gather();
    const at::AutoGradMode grad(true);
    for (std::size_t i = 0; i < all.size(); ++i)
      all[i]->value().mul(gradients[i].to(at::kFloat)).sum().backward();
    unit->release(/*after_forward=*/false);
    unit->reduce_gradients();
  }

  std::vector<std::unique_ptr<Parameter>> all;
  Sharding sharding;
  std::unique_ptr<ParameterUnit> unit;
};

/// What a rank of the shard group adds to the gradient of the whole tensor.
at::Tensor contribution(int64_t seed, int shard_rank) {
  return noise({13, 6}, 100 * seed + shard_rank);
}

at::Tensor share(const Parameter& parameter, const at::Tensor& whole) {
  const archon::Range range = parameter.tp_range(0);
  return whole.narrow(parameter.tp_dim(), range.begin, range.size());
}

/// The elements of it that this rank owns.
at::Tensor owned(const Parameter& parameter, const at::Tensor& whole) {
  return share(parameter, whole)
      .contiguous()
      .view({-1})
      .narrow(0, parameter.owned().begin, parameter.owned().size());
}

/// The whole gradient: contributions of the shard group, and, where a parameter is replicated
/// over tp, one part from every tp rank.
at::Tensor whole_gradient(int64_t seed, TpPlacement placement, const MeshShape& shape) {
  at::Tensor sum = noise({13, 6}, 0).zero_();
  const int parts = placement == TpPlacement::replicated ? shape.tp : 1;
  for (int shard = 0; shard < shape.dp * shape.cp; ++shard)
    for (int tp = 0; tp < parts; ++tp) sum += contribution(seed, shard * parts + tp);
  return sum;
}

/// This rank's gradients of all parameters.
std::vector<at::Tensor> my_gradients(const Parameters& parameters, const Mesh& mesh) {
  std::vector<at::Tensor> gradients;
  for (std::size_t i = 0; i < parameters.all.size(); ++i) {
    const bool replicated = kPlacements[i] == TpPlacement::replicated;
    const int shard = mesh.shard_group().rank();
    const int source = replicated ? shard * mesh.shape().tp + mesh.tp_rank() : shard;
    gradients.push_back(share(*parameters.all[i], contribution(i, source)));
  }
  return gradients;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gradients)

BOOST_AUTO_TEST_CASE(every_mesh_equals_the_definition) {
  for (const MeshShape& shape : archon::test::all_meshes(test_environment().world_size()))
    for (const ShardMode mode : kModes)
      BOOST_TEST_CONTEXT(archon::to_string(shape) << ", shard " << static_cast<int>(mode)) {
        const Mesh mesh(shape, MPI_COMM_WORLD);
        Parameters parameters(mesh, mode);
        parameters.backward(my_gradients(parameters, mesh));
        archon::reduce_gradients({parameters.unit.get()}, parameters.sharding, mesh);
        double squares = 0;
        for (std::size_t i = 0; i < parameters.all.size(); ++i) {
          const at::Tensor whole = whole_gradient(i, kPlacements[i], shape);
          squares += whole.square().sum().item<double>();
          const Parameter& parameter = *parameters.all[i];
          if (parameter.owned().size() > 0)
            ARCHON_CHECK_NEAR(parameter.grad(), owned(parameter, whole), 1e-6);
          if (parameter.place().size > 1) continue;
          at::Tensor first = parameter.grad().clone();
          mesh.shard_group().broadcast(first, 0);
          BOOST_TEST(first.equal(parameter.grad()));  // bit for bit
        }
        const double norm = archon::gradient_norm({parameters.unit.get()}, mesh);
        BOOST_CHECK_CLOSE(norm, std::sqrt(squares), 1e-5);
        BOOST_TEST(mesh.world().all_reduce(norm, archon::ReduceOp::max) == norm);
        BOOST_TEST(mesh.world().all_reduce(norm, archon::ReduceOp::min) == norm);
      }
}

BOOST_AUTO_TEST_CASE(a_gradient_that_is_not_finite_shows_on_every_rank) {
  for (const MeshShape& shape : archon::test::all_meshes(test_environment().world_size()))
    for (const ShardMode mode : kModes) {
      const Mesh mesh(shape, MPI_COMM_WORLD);
      Parameters parameters(mesh, mode);
      std::vector<at::Tensor> gradients = my_gradients(parameters, mesh);
      if (mesh.world().rank() == mesh.world().size() - 1)
        gradients[1] = gradients[1].add(std::numeric_limits<double>::infinity());
      parameters.backward(gradients);
      archon::reduce_gradients({parameters.unit.get()}, parameters.sharding, mesh);
      BOOST_TEST(!std::isfinite(archon::gradient_norm({parameters.unit.get()}, mesh)));
    }
}

BOOST_AUTO_TEST_SUITE_END()
