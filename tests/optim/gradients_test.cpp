// Reduction and norm of gradients on every mesh against their definition on whole tensors.
#include "archon/optim/gradients.hpp"

#include <cmath>
#include <limits>

#include "support/meshes.hpp"
#include "support/mpi_main.hpp"
#include "support/tensors.hpp"

using archon::Mesh;
using archon::MeshShape;
using archon::Parameter;
using archon::TpPlacement;
using archon::test::noise;

namespace {

/// 13 rows: no number of ranks divides them.
Parameter make(TpPlacement placement, const Mesh& mesh) {
  Parameter parameter({{{"weight", {13, 6}}}, placement});
  parameter.set_tp(mesh.tp_rank(), mesh.shape().tp);
  parameter.allocate(at::kFloat);
  parameter.zero_grad();
  return parameter;
}

/// What a rank of the shard group adds to the gradient of the whole tensor.
at::Tensor contribution(int64_t seed, int shard_rank) {
  return noise({13, 6}, 100 * seed + shard_rank);
}

at::Tensor share(const Parameter& parameter, const at::Tensor& whole) {
  const archon::Range range = parameter.tp_range(0);
  return whole.narrow(parameter.tp_dim(), range.begin, range.size());
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

}  // namespace

BOOST_AUTO_TEST_SUITE(gradients)

BOOST_AUTO_TEST_CASE(every_mesh_equals_the_definition) {
  constexpr TpPlacement kPlacements[] = {TpPlacement::replicated, TpPlacement::rows,
                                         TpPlacement::columns};
  for (const MeshShape& shape : archon::test::all_meshes(test_environment().world_size()))
    BOOST_TEST_CONTEXT(archon::to_string(shape)) {
      const Mesh mesh(shape, MPI_COMM_WORLD);
      std::vector<Parameter> owned;
      for (const TpPlacement placement : kPlacements) owned.push_back(make(placement, mesh));
      std::vector<Parameter*> parameters;
      for (std::size_t i = 0; i < owned.size(); ++i) {
        const bool replicated = kPlacements[i] == TpPlacement::replicated;
        const int shard = mesh.shard_group().rank(), tp = mesh.tp_rank();
        const at::Tensor mine = contribution(i, replicated ? shard * shape.tp + tp : shard);
        at::Tensor(owned[i].grad()).copy_(share(owned[i], mine));
        parameters.push_back(&owned[i]);
      }
      archon::reduce_gradients(parameters, mesh);
      double squares = 0;
      for (std::size_t i = 0; i < owned.size(); ++i) {
        const at::Tensor whole = whole_gradient(i, kPlacements[i], shape);
        squares += whole.square().sum().item<double>();
        ARCHON_CHECK_NEAR(owned[i].grad(), share(owned[i], whole), 1e-6);
        at::Tensor first = owned[i].grad().clone();
        mesh.shard_group().broadcast(first, 0);
        BOOST_TEST(first.equal(owned[i].grad()));  // bit for bit
      }
      const double norm = archon::gradient_norm(parameters, mesh);
      BOOST_CHECK_CLOSE(norm, std::sqrt(squares), 1e-5);
      BOOST_TEST(mesh.world().all_reduce(norm, archon::ReduceOp::max) == norm);
      BOOST_TEST(mesh.world().all_reduce(norm, archon::ReduceOp::min) == norm);
    }
}

BOOST_AUTO_TEST_CASE(a_gradient_that_is_not_finite_shows_on_every_rank) {
  for (const MeshShape& shape : archon::test::all_meshes(test_environment().world_size())) {
    const Mesh mesh(shape, MPI_COMM_WORLD);
    Parameter parameter = make(TpPlacement::rows, mesh);
    if (mesh.world().rank() == mesh.world().size() - 1)
      at::Tensor(parameter.grad()).fill_(std::numeric_limits<float>::infinity());
    archon::reduce_gradients({&parameter}, mesh);
    BOOST_TEST(!std::isfinite(archon::gradient_norm({&parameter}, mesh)));
  }
}

BOOST_AUTO_TEST_SUITE_END()
