#pragma once

#include <ATen/TensorIndexing.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <hdf5.h>

#include <map>
#include <string>
#include <vector>

#include "archon/base/checksum.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "support/temporary_folder.hpp"

namespace archon::test {

/// One mapping of a made-up checkpoint: a rectangle of a tensor, and where its elements lie.
struct FixtureBox {
  int64_t row, rows, column, columns;
  int shard;
  int64_t begin = -1;  ///< in the shard's dataset; -1: behind the box before
};

/// A checkpoint of one matrix, written after docs/file-formats.md by nothing but HDF5: what another
/// program may leave.
class CheckpointFixture {
 public:
  static constexpr const char* kPath = "/parameters/w";

  CheckpointFixture(std::string folder, const at::Tensor& matrix, std::vector<FixtureBox> boxes,
                    bool chunked)
      : folder_(std::move(folder)) {
    std::filesystem::create_directories(folder_);
    std::map<int, std::vector<at::Tensor>> parts;
    std::map<int, int64_t> sizes;
    for (FixtureBox& box : boxes) {
      if (box.begin < 0) box.begin = sizes[box.shard];
      parts[box.shard].push_back(matrix.narrow(0, box.row, box.rows)
                                     .narrow(1, box.column, box.columns)
                                     .contiguous()
                                     .view({-1}));
      sizes[box.shard] += box.rows * box.columns;
    }
    for (const auto& [shard, pieces] : parts) write_shard(shard, at::cat(pieces), chunked);
    write_index(matrix, boxes);
    write_manifest();
  }

  const std::string& folder() const { return folder_; }
  static std::string shard_name(int shard) { return fmt::format("shard-{:05}.h5", shard); }

 private:
  void write_shard(int shard, const at::Tensor& elements, bool chunked) const {
    constexpr int64_t kBlock = int64_t{1} << 20;
    h5::File file =
        h5::File::create(folder_ + "/" + shard_name(shard), "archon.checkpoint_shard", 1);
    if (chunked) {
      file.create_rows(kPath, {}, at::kFloat);
      file.append_rows(kPath, elements);
    } else {
      file.write(kPath, elements);
    }
    std::vector<int64_t> sums;
    for (int64_t begin = 0; begin < elements.numel(); begin += kBlock) {
      const int64_t count = std::min(kBlock, elements.numel() - begin);
      sums.push_back(
          static_cast<int64_t>(xxh3_64(elements.const_data_ptr<float>() + begin, count * 4)));
    }
    file.write(std::string("/checksums") + kPath, at::tensor(sums, at::kLong).view(at::kUInt64));
    file.flush();
  }

  void write_index(const at::Tensor& matrix, const std::vector<FixtureBox>& boxes) const {
    h5::File file = h5::File::create(folder_ + "/index.h5", "archon.checkpoint", 1);
    file.set_attribute("/", "step", int64_t{1});
    file.set_attribute("/", "layout", std::string("shards"));
    const h5::Handle list(H5Pcreate(H5P_DATASET_CREATE));
    const hsize_t shape[] = {static_cast<hsize_t>(matrix.size(0)),
                             static_cast<hsize_t>(matrix.size(1))};
    const h5::Handle space(H5Screate_simple(2, shape, nullptr));
    for (const FixtureBox& box : boxes) {
      const hsize_t start[] = {static_cast<hsize_t>(box.row), static_cast<hsize_t>(box.column)};
      const hsize_t count[] = {static_cast<hsize_t>(box.rows), static_cast<hsize_t>(box.columns)};
      H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start, nullptr, count, nullptr);
      const hsize_t begin = static_cast<hsize_t>(box.begin), size = count[0] * count[1];
      const hsize_t end = begin + size;
      const h5::Handle source(H5Screate_simple(1, &end, nullptr));
      H5Sselect_hyperslab(source.get(), H5S_SELECT_SET, &begin, nullptr, &size, nullptr);
      H5Pset_virtual(list.get(), space.get(), shard_name(box.shard).c_str(), kPath, source.get());
    }
    H5Sselect_all(space.get());
    const h5::Handle link(H5Pcreate(H5P_LINK_CREATE));
    H5Pset_create_intermediate_group(link.get(), 1);
    const h5::Handle dataset(H5Dcreate2(file.id(), kPath, H5T_IEEE_F32LE, space.get(), link.get(),
                                        list.get(), H5P_DEFAULT));
    BOOST_REQUIRE(dataset.get() >= 0);
  }

  void write_manifest() const {
    const auto hex = [](uint64_t sum) { return fmt::format("{:016x}", sum); };
    Json json = {{"schema", "archon.checkpoint_manifest"},
                 {"schema_version", 1},
                 {"archon_version", "0"},
                 {"step", 1},
                 {"files", Json::array()}};
    for (const auto& item : std::filesystem::directory_iterator(folder_)) {
      int64_t bytes = 0;
      const uint64_t sum = xxh3_64_of_file(item.path().string(), &bytes);
      json["files"].push_back(
          {{"name", item.path().filename().string()}, {"bytes", bytes}, {"xxh3_64", hex(sum)}});
    }
    const std::string text = json.dump();
    json["xxh3_64"] = hex(xxh3_64(text.data(), text.size()));
    write_bytes(folder_ + "/manifest.json", json.dump());
  }

  std::string folder_;
};

}  // namespace archon::test
