#include "block_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "archon/base/checksum.hpp"
#include "archon/base/error.hpp"
#include "archon/io/files.hpp"
#include "shard_file.hpp"

namespace archon {
namespace {

template <class Result>
Result checked(Result result, const BlockFile& file, const std::string& path) {
  ARCHON_VALIDATE(result >= 0, "{}: cannot read {}; the file may be damaged", file.hdf5().path(),
                  path);
  return result;
}

std::vector<uint64_t> read_sums(const h5::File& file, const std::string& dataset, int64_t blocks) {
  const h5::DatasetInfo info = file.info(checksum_path(dataset));
  ARCHON_VALIDATE(info.dtype == at::kUInt64 && info.shape == std::vector<int64_t>{blocks},
                  "{}: {} does not hold {} checksums, one for each block of {}; the file may be "
                  "damaged",
                  file.path(), info.path, blocks, dataset);
  const at::Tensor sums = file.read(info.path);
  const auto* first = sums.const_data_ptr<uint64_t>();
  return {first, first + blocks};
}

bool is_contiguous(const BlockFile& file, const BlockDataset& dataset) {
  const h5::Handle list(checked(H5Dget_create_plist(dataset.id.get()), file, dataset.path));
  return H5Pget_layout(list.get()) == H5D_CONTIGUOUS && H5Pget_external_count(list.get()) == 0;
}

}  // namespace

BlockFile::BlockFile(const std::string& path)
    : file_(h5::File::open(path)), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  ARCHON_VALIDATE(descriptor_ >= 0, "cannot open {}: {}", path, std::strerror(errno));
}

BlockFile::~BlockFile() { ::close(descriptor_); }

BlockDataset BlockFile::dataset(const std::string& path) const {
  const h5::DatasetInfo info = file_.info(path);
  BlockDataset dataset{
      path, h5::Handle(H5Dopen2(file_.id(), path.c_str(), H5P_DEFAULT)), 0, -1, {}};
  checked(dataset.id.get(), *this, path);
  const h5::Handle type(checked(H5Dget_type(dataset.id.get()), *this, path));
  ARCHON_VALIDATE(H5Tequal(type.get(), H5T_IEEE_F32LE) > 0,
                  "{}: {} is not of little-endian float32 numbers; the file may be damaged",
                  file_.path(), path);
  dataset.elements = whole_box(info.shape).elements();
  if (is_contiguous(*this, dataset)) {
    const haddr_t address = H5Dget_offset(dataset.id.get());
    if (address != HADDR_UNDEF) dataset.address = static_cast<int64_t>(address);
  }
  ARCHON_VALIDATE(dataset.address >= 0 || info.shape.size() == 1,
                  "{}: {} is neither contiguous nor one-dimensional", file_.path(), path);
  const int64_t blocks = (dataset.elements + kChecksumBlock - 1) / kChecksumBlock;
  dataset.sums = read_sums(file_, path, blocks);
  return dataset;
}

void BlockFile::read(const BlockDataset& dataset, int64_t block, float* to) const {
  const Range elements = dataset.block(block);
  if (dataset.address >= 0) {
    read_bytes(dataset, elements, to);
  } else {
    const at::Tensor rows =
        file_.read_rows(dataset.path, elements.begin, elements.size(), at::kFloat);
    std::memcpy(to, rows.const_data_ptr<float>(), rows.nbytes());
  }
  const uint64_t sum = xxh3_64(to, static_cast<std::size_t>(elements.size()) * sizeof(float));
  ARCHON_VALIDATE(sum == dataset.sums[block],
                  "{}: {} is damaged: its elements {} to {} do not fit their checksum",
                  file_.path(), dataset.path, elements.begin, elements.end - 1);
}

void BlockFile::read_bytes(const BlockDataset& dataset, Range elements, float* to) const {
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  const int64_t bytes = elements.size() * kFloat;
  const int64_t done = read_at(descriptor_, to, static_cast<std::size_t>(bytes),
                               dataset.address + elements.begin * kFloat);
  ARCHON_VALIDATE(done == bytes, "{}: cannot read {}: {}", file_.path(), dataset.path,
                  done < 0 ? std::strerror(errno) : "the file ends before");
}

void BlockFile::will_read(Range bytes) const {
  // The kernel cuts one call to what a disk takes at once.
  constexpr int64_t kPiece = 256 * 1024;
  for (int64_t at = bytes.begin; at < bytes.end; at += kPiece)
    ::posix_fadvise(descriptor_, at, std::min(kPiece, bytes.end - at), POSIX_FADV_WILLNEED);
}

}  // namespace archon
