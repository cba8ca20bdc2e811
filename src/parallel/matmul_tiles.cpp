#include "matmul_tiles.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "archon/base/amx.hpp"
#include "archon/parallel/tasks.hpp"

namespace archon {

#if ARCHON_X86_TARGETS
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,amx-tile,amx-bf16")
namespace {

using Number = c10::BFloat16;
constexpr int kWidth = 16;
using Vec = float __attribute__((vector_size(4 * kWidth)));

// Operands are packed in panels: 32 rows or columns of the product. 32 numbers of the summed dim are
// a step; of a panel, that is two tiles, one after the other.
constexpr int64_t kPanel = 32, kStep = 32, kStepNumbers = kPanel * kStep;
constexpr int64_t kTileRow = 32, kTile = 16 * kTileRow;
// A block of the left operand, and a panel of the right one, fit the second-level cache (1.1 MiB).
constexpr int64_t kBlockRows = 256, kDepth = 2048;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// Rows are numbers of the summed dim, `stride` apart.
struct Operand {
  const Number* data;
  int64_t stride, rows, columns;
  Operand at(int64_t row, int64_t column, int64_t at_most_rows) const {
    return {data + row * stride + column, stride, std::min(rows - row, at_most_rows),
            columns - column};
  }
};

#include "archon/base/transpose_square.inc"

/// Two neighbours of the summed dim in each lane: `low` of columns 0 to 3, 8 to 11, 16 to 19 and 24
/// to 27, `high` of the others. Zeros where the operand ends.
struct Pairs {
  __m512i low, high;
};

inline Pairs load_pairs(const Operand& x, int64_t row) {
  const __mmask32 columns = x.columns >= kPanel ? ~0U : (1U << x.columns) - 1;
  const auto load = [&](int64_t r) {
    return r < x.rows ? _mm512_maskz_loadu_epi16(columns, x.data + r * x.stride) : __m512i{};
  };
  const __m512i even = load(row), odd = load(row + 1);
  return {_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd)};
}

/// The column that lane i of Pairs::low is of; four more of `high`.
constexpr int64_t low_column(int64_t i) { return i / 4 * 8 + i % 4; }

/// Rows of tiles are columns of x.
void pack_left(Number* out, const Operand& x) {
  for (int64_t row = 0; row < x.rows; row += kStep, out += kStepNumbers) {
    Vec low[kWidth], high[kWidth];
    for (int64_t i = 0; i < kWidth; ++i) {
      const Pairs pairs = load_pairs(x, row + 2 * i);
      low[i] = (Vec)pairs.low, high[i] = (Vec)pairs.high;
    }
    transpose_square(low);
    transpose_square(high);
    for (int64_t i = 0; i < kWidth; ++i) {
      _mm512_store_ps(out + low_column(i) * kTileRow, (__m512)low[i]);
      _mm512_store_ps(out + (low_column(i) + 4) * kTileRow, (__m512)high[i]);
    }
  }
}

/// Rows of tiles are pairs of rows of x; columns lie as in Pairs, `low` in the first tile.
void pack_right(Number* out, const Operand& x) {
  for (int64_t row = 0; row < x.rows; row += kStep, out += kStepNumbers)
    for (int64_t i = 0; i < kWidth; ++i) {
      const Pairs pairs = load_pairs(x, row + 2 * i);
      _mm512_store_si512(out + i * kTileRow, pairs.low);
      _mm512_store_si512(out + kTile + i * kTileRow, pairs.high);
    }
}

/// A packed panel's tiles.
amx::Tiles tiles_of(const Number* panel) {
  return {panel, kTileRow * sizeof(Number), kTile * sizeof(Number), kStepNumbers * sizeof(Number)};
}

/// Rounds sums [32, 32], whose columns lie as in the right panel, and puts them in order, as far as
/// out [rows, columns] goes.
void store_rounded(Number* out, int64_t stride, const float* sums, int64_t rows, int64_t columns) {
  alignas(64) uint16_t place[kPanel];
  for (int64_t i = 0; i < 16; ++i) place[low_column(i)] = i, place[low_column(i) + 4] = 16 + i;
  const __m512i order = _mm512_load_si512(place);
  const __mmask32 mask = columns >= kPanel ? ~0U : (1U << columns) - 1;
  for (int64_t r = 0; r < std::min(rows, kPanel); ++r, out += stride, sums += kPanel) {
    const __m512i row =
        (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(sums + 16), _mm512_load_ps(sums));
    _mm512_mask_storeu_epi16(out, mask, _mm512_permutexvar_epi16(order, row));
  }
}

/// Rows of the product that are one task, and its scratch space in floats.
struct Blocks {
  int64_t rows, left, sums;
  bool at_once;  // the summed dim is not cut

  Blocks(int64_t m, int64_t n, int64_t k) : at_once(k <= kDepth) {
    const int64_t threads = at::get_num_threads();
    const int64_t blocks = threads * ceil_div(m, threads * kBlockRows);  // all threads end together
    rows = round_up(ceil_div(m, blocks), kPanel);
    left = rows * std::min(round_up(k, kStep), kDepth) / 2;
    sums = at_once ? kPanel * kPanel : rows * round_up(n, kPanel);
  }
};

/// Rows of the product from `first` on, of all columns. `right` is packed.
void multiply_block(Number* out, const Operand& a, const Number* right, int64_t n, int64_t first,
                    const Blocks& blocks, float* scratch) {
  auto* const left = reinterpret_cast<Number*>(scratch + blocks.sums);
  const int64_t k = a.rows, rows = std::min(blocks.rows, a.columns - first);
  const int64_t row_panels = ceil_div(rows, kPanel), column_panels = ceil_div(n, kPanel);
  const int64_t right_panel = round_up(k, kStep) * kPanel;
  const amx::TileScope tiles;
  for (int64_t depth = 0; depth < k; depth += kDepth) {
    const int64_t steps = ceil_div(std::min(k - depth, kDepth), kStep);
    const int64_t left_panel = steps * kStepNumbers;
    for (int64_t q = 0; q < row_panels; ++q)
      pack_left(left + q * left_panel, a.at(depth, first + q * kPanel, kDepth));
    for (int64_t p = 0; p < column_panels; ++p) {
      const Number* const b = right + p * right_panel + depth * kPanel;
      const Number* const next = p + 1 < column_panels ? b + right_panel : b;
      for (int64_t q = 0; q < row_panels; ++q) {
        float* const sums =
            scratch + (blocks.at_once ? 0 : (p * row_panels + q) * kPanel * kPanel);
        // Meanwhile the next panel moves into the second-level cache.
        const Number* ahead = next + q * left_panel / row_panels;
        const auto prefetch = [&ahead, lines = kPanel / row_panels] {
          for (int64_t i = 0; i < lines; ++i, ahead += 32)
            _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
        };
        amx::multiply<2>(sums, kPanel * sizeof(float), tiles_of(left + q * left_panel),
                         tiles_of(b), steps, depth > 0, prefetch);
        if (depth + kDepth >= k)
          store_rounded(out + (first + q * kPanel) * n + p * kPanel, n, sums, rows - q * kPanel,
                        n - p * kPanel);
      }
    }
  }
}

}  // namespace

at::Tensor multiply_in_tiles(const at::Tensor& a, const at::Tensor& b) {
  // LibTorch's profilers see this product as they see the others.
  RECORD_FUNCTION("archon::multiply_in_tiles", std::vector<c10::IValue>({a, b}));
  const int64_t m = a.size(0), n = b.size(0), k = a.size(1);
  const Operand left{a.const_data_ptr<Number>(), a.stride(1), k, m};
  const Operand right{b.const_data_ptr<Number>(), b.stride(1), k, n};
  const at::Tensor out = at::empty({m, n}, a.options());
  const int64_t panels = ceil_div(n, kPanel), depth = round_up(k, kStep);
  const at::Tensor packed = at::empty({panels, depth, kPanel}, a.options());
  run_tasks(panels, 0, [&](int64_t p, float*) {
    pack_right(packed.data_ptr<Number>() + p * depth * kPanel, right.at(0, p * kPanel, k));
  });
  const Blocks blocks(m, n, k);
  run_tasks(ceil_div(m, blocks.rows), blocks.sums + blocks.left, [&](int64_t i, float* scratch) {
    multiply_block(out.data_ptr<Number>(), left, packed.const_data_ptr<Number>(), n,
                   i * blocks.rows, blocks, scratch);
  });
  return out;
}
#pragma GCC pop_options
#else
at::Tensor multiply_in_tiles(const at::Tensor& a, const at::Tensor& b) { return a.mm(b.t()); }
#endif

bool are_multiplied_in_tiles(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == at::kBFloat16 && a.stride(0) == 1 && b.stride(0) == 1 &&
         amx::multiplies_bfloat16();
}

}  // namespace archon
