#include "saved_boxes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <tuple>

#include "archon/base/error.hpp"
#include "manifest.hpp"

namespace archon {
namespace {

/// Reads the mappings of one virtual dataset.
class Mappings {
 public:
  Mappings(const h5::File& index, const h5::DatasetInfo& tensor)
      : index_(index),
        tensor_(tensor),
        dataset_(H5Dopen2(index.id(), tensor.path.c_str(), H5P_DEFAULT)),
        list_(H5Dget_create_plist(dataset_.get())) {
    check(list_.get() >= 0);
  }

  bool is_virtual() const { return H5Pget_layout(list_.get()) == H5D_VIRTUAL; }

  std::size_t count() const {
    std::size_t count = 0;
    check(H5Pget_virtual_count(list_.get(), &count) >= 0);
    return count;
  }

  SavedBox at(std::size_t i) const {
    const h5::Handle to(H5Pget_virtual_vspace(list_.get(), i));
    const h5::Handle from(H5Pget_virtual_srcspace(list_.get(), i));
    const std::vector<Range> source = rectangle(from.get());
    SavedBox saved{box_of(rectangle(to.get())), name(H5Pget_virtual_filename, i),
                   name(H5Pget_virtual_dsetname, i), source.front().begin};
    check(source.size() == 1 && source.front().size() == saved.box.elements());
    return saved;
  }

 private:
  void check(bool sound) const {
    ARCHON_VALIDATE(sound,
                    "{}: the mappings of {} cannot be used: each must take a range of a "
                    "one-dimensional dataset to a rectangle",
                    index_.path(), tensor_.path);
  }

  std::vector<Range> rectangle(hid_t space) const {
    const int dims = H5Sget_simple_extent_ndims(space);
    check(dims > 0);
    std::vector<hsize_t> first(dims), last(dims);
    check(H5Sget_select_bounds(space, first.data(), last.data()) >= 0);
    std::vector<Range> ranges;
    int64_t elements = 1;
    for (int dim = 0; dim < dims; ++dim) {
      ranges.push_back({static_cast<int64_t>(first[dim]), static_cast<int64_t>(last[dim]) + 1});
      elements *= ranges.back().size();
    }
    check(H5Sget_select_npoints(space) == elements);
    return ranges;
  }

  /// Columns are those of all dims but the first together; a box cuts the first of them only.
  Box box_of(const std::vector<Range>& ranges) const {
    check(ranges.size() == tensor_.shape.size());
    if (ranges.size() == 1) return {ranges[0], {0, 1}};
    int64_t inner = 1;
    for (std::size_t dim = 2; dim < ranges.size(); ++dim) {
      check(ranges[dim].size() == tensor_.shape[dim]);
      inner *= tensor_.shape[dim];
    }
    return {ranges[0], {ranges[1].begin * inner, ranges[1].end * inner}};
  }

  template <class Get>
  std::string name(Get get, std::size_t i) const {
    const ssize_t size = get(list_.get(), i, nullptr, 0);
    check(size >= 0);
    std::string text(static_cast<std::size_t>(size), '\0');
    get(list_.get(), i, text.data(), text.size() + 1);
    return text;
  }

  const h5::File& index_;
  const h5::DatasetInfo& tensor_;
  h5::Handle dataset_, list_;
};

/// Boxes whose rows do not begin behind the end of `box`, in a list sorted by row.
bool overlaps_next(const std::vector<SavedBox>& boxes, std::size_t i) {
  const Box& box = boxes[i].box;
  for (std::size_t next = i + 1; next < boxes.size() && boxes[next].box.rows.begin < box.rows.end;
       ++next)
    if (intersect(box, boxes[next].box).elements() > 0) return true;
  return false;
}

void check_cover(const h5::File& index, const h5::DatasetInfo& tensor,
                 const std::vector<SavedBox>& boxes) {
  const Box whole = whole_box(tensor.shape);
  int64_t covered = 0;
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const Box& box = boxes[i].box;
    ARCHON_VALIDATE(intersect(whole, box) == box, "{}: a mapping of {} leaves its bounds",
                    index.path(), tensor.path);
    ARCHON_VALIDATE(!overlaps_next(boxes, i), "{}: two mappings of {} overlap", index.path(),
                    tensor.path);
    covered += box.elements();
  }
  ARCHON_VALIDATE(covered == whole.elements(),
                  "{}: {} is saved only in part: its mappings cover {} of {} elements",
                  index.path(), tensor.path, covered, whole.elements());
}

}  // namespace

std::vector<SavedBox> saved_boxes(const h5::File& index, const h5::DatasetInfo& tensor) {
  const Mappings mappings(index, tensor);
  if (!mappings.is_virtual()) return {{whole_box(tensor.shape), kIndexName, tensor.path, 0}};
  std::vector<SavedBox> boxes;
  for (std::size_t i = 0; i < mappings.count(); ++i) boxes.push_back(mappings.at(i));
  std::ranges::sort(boxes, {}, [](const SavedBox& saved) {
    return std::tuple(saved.box.rows.begin, saved.box.columns.begin);
  });
  check_cover(index, tensor, boxes);
  return boxes;
}

}  // namespace archon
