#include "archon/mesh/mesh.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <numeric>

#include "archon/base/error.hpp"
#include "support/meshes.hpp"
#include "support/mpi_main.hpp"

using archon::Communicator;
using archon::InputError;
using archon::Mesh;
using archon::MeshShape;
using archon::resolve_mesh_shape;
using Ranks = std::vector<int>;

namespace {

/// World ranks of a communicator's members, in its order.
Ranks members(const Communicator& comm) {
  MPI_Group world = MPI_GROUP_NULL, group = MPI_GROUP_NULL;
  ARCHON_MPI(MPI_Comm_group(MPI_COMM_WORLD, &world));
  ARCHON_MPI(MPI_Comm_group(comm.mpi(), &group));
  Ranks inside(comm.size()), outside(comm.size());
  std::iota(inside.begin(), inside.end(), 0);
  ARCHON_MPI(MPI_Group_translate_ranks(group, comm.size(), inside.data(), world, outside.data()));
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  return outside;
}

bool refused(MeshShape shape, int ranks, std::initializer_list<const char*> words) {
  try {
    resolve_mesh_shape(shape, ranks);
    return false;
  } catch (const InputError& error) {
    const std::string text = error.what();
    return std::all_of(words.begin(), words.end(),
                       [&](const char* word) { return text.find(word) != std::string::npos; });
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(mesh)

BOOST_AUTO_TEST_CASE(ranks_are_row_major_and_groups_hold_who_they_should) {
  const int ranks = test_environment().world_size(), me = test_environment().world_rank();
  for (const MeshShape& shape : archon::test::all_meshes(ranks)) {
    const Mesh mesh(shape, MPI_COMM_WORLD);
    BOOST_TEST_CONTEXT(archon::to_string(shape)) {
      BOOST_TEST((mesh.dp_rank() * shape.cp + mesh.cp_rank()) * shape.tp + mesh.tp_rank() == me);
      BOOST_TEST(mesh.world().rank() == me);
      BOOST_TEST(mesh.world().size() == ranks);
      Ranks dp, cp, tp, model_parallel, shard_group;
      for (int rank = 0; rank < ranks; ++rank) {
        const int t = rank % shape.tp, c = rank / shape.tp % shape.cp,
                  d = rank / shape.tp / shape.cp;
        const bool same_dp = d == mesh.dp_rank(), same_cp = c == mesh.cp_rank(),
                   same_tp = t == mesh.tp_rank();
        if (same_cp && same_tp) dp.push_back(rank);
        if (same_dp && same_tp) cp.push_back(rank);
        if (same_dp && same_cp) tp.push_back(rank);
        if (same_dp) model_parallel.push_back(rank);
        if (same_tp) shard_group.push_back(rank);
      }
      BOOST_TEST(members(mesh.dp()) == dp);
      BOOST_TEST(members(mesh.cp()) == cp);
      BOOST_TEST(members(mesh.tp()) == tp);
      BOOST_TEST(members(mesh.model_parallel()) == model_parallel);
      BOOST_TEST(members(mesh.shard_group()) == shard_group);
      BOOST_TEST(mesh.is_data_parallel_head() == (mesh.cp_rank() == 0 && mesh.tp_rank() == 0));
    }
  }
}

BOOST_AUTO_TEST_CASE(groups_carry_their_axis_as_name) {
  const Mesh mesh({test_environment().world_size(), 1, 1}, MPI_COMM_WORLD);
  BOOST_TEST(mesh.dp().name() == "dp");
  BOOST_TEST(mesh.cp().name() == "cp");
  BOOST_TEST(mesh.tp().name() == "tp");
  BOOST_TEST(mesh.model_parallel().name() == "model_parallel");
  BOOST_TEST(mesh.shard_group().name() == "shard_group");
}

BOOST_AUTO_TEST_CASE(traffic_is_told_by_axis) {
  const int ranks = test_environment().world_size();
  for (const MeshShape& shape : archon::test::all_meshes(ranks)) {
    const Mesh mesh(shape, MPI_COMM_WORLD);
    const Communicator* groups[] = {
        &mesh.world(),          &mesh.dp(),         &mesh.cp(), &mesh.tp(),
        &mesh.model_parallel(), &mesh.shard_group()};
    const std::string names[] = {"world", "dp", "cp", "tp", "model_parallel", "shard"};
    // One number more over each group than over the one before.
    for (int group = 0; group < 6; ++group)
      for (int times = 0; times <= group; ++times) groups[group]->all_reduce(int64_t{1});
    const auto traffic = mesh.traffic();
    for (int group = 0; group < 6; ++group) {
      const int64_t messages = (group + 1) * (groups[group]->size() - 1);
      BOOST_TEST(traffic[group].axis == names[group]);
      BOOST_TEST(traffic[group].sent.messages == messages);
      BOOST_TEST(traffic[group].sent.bytes == 8 * messages);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_mesh_of_one_needs_no_mpi) {
  const Mesh mesh = Mesh::self();
  BOOST_TEST(mesh.shape().size() == 1);
  for (const Communicator* comm : {&mesh.world(), &mesh.dp(), &mesh.cp(), &mesh.tp(),
                                   &mesh.model_parallel(), &mesh.shard_group()}) {
    BOOST_TEST(comm->size() == 1);
    BOOST_TEST((comm->mpi() == MPI_COMM_NULL));
  }
  BOOST_TEST(mesh.is_data_parallel_head());
}

BOOST_AUTO_TEST_CASE(one_axis_is_computed) {
  BOOST_TEST(resolve_mesh_shape({-1, 2, 2}, 8).dp == 2);
  BOOST_TEST(resolve_mesh_shape({2, -1, 2}, 8).cp == 2);
  BOOST_TEST(resolve_mesh_shape({2, 2, -1}, 8).tp == 2);
  BOOST_TEST(resolve_mesh_shape({-1, 1, 1}, 7).dp == 7);
  BOOST_TEST(resolve_mesh_shape({}, 3).dp == 3);
  BOOST_TEST(resolve_mesh_shape({2, 2, 2}, 8).size() == 8);
}

BOOST_AUTO_TEST_CASE(shapes_that_do_not_fit_are_refused_with_the_numbers) {
  BOOST_TEST(refused({2, 2, 2}, 4, {"dp 2 x cp 2 x tp 2", "8", "4"}));
  BOOST_TEST(refused({1, 1, 1}, 4, {"1", "4"}));
  BOOST_TEST(refused({-1, 3, 1}, 4, {"3", "4"}));
  BOOST_TEST(refused({-1, 4, 2}, 4, {"8", "4"}));
  BOOST_TEST(refused({-1, -1, 1}, 4, {"-1", "only one"}));
  BOOST_TEST(refused({-1, -1, -1}, 4, {"only one"}));
  BOOST_TEST(refused({0, 1, 1}, 4, {"--dp 0"}));
  BOOST_TEST(refused({1, 0, 4}, 4, {"--cp 0"}));
  BOOST_TEST(refused({4, 1, -2}, 4, {"--tp -2"}));
  BOOST_TEST(refused({-2, -2, 1}, 4, {"--dp -2"}));
  // 65536 x 65536 is 0 in 32 bits
  BOOST_TEST(refused({65536, 65536, 1}, 1, {"65536"}));
  BOOST_TEST(refused({-1, 65536, 65536}, 1, {"65536"}));
}

BOOST_AUTO_TEST_SUITE_END()
