// Attention over cached keys and values against packed attention over whole sequences.
#include "archon/model/key_value_cache.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include "archon/model/ops.hpp"
#include "support/tensors.hpp"

using namespace archon;
using archon::test::noise;

namespace {

struct Heads {
  int64_t heads, kv_heads, dim;
};

DecoderConfig config_of(const Heads& h) {
  DecoderConfig config;
  config.num_layers = 2;
  config.num_heads = h.heads;
  config.num_kv_heads = h.kv_heads;
  config.head_dim = h.dim;
  return config;
}

at::Tensor sequence(int64_t length, const Heads& h, int64_t seed, at::ScalarType dtype) {
  return noise({length, h.heads + 2 * h.kv_heads, h.dim}, seed).mul(2).to(dtype);
}

/// Attention of tokens [begin, end) of some sequences, through layer 1 of their caches.
at::Tensor attend(const std::vector<at::Tensor>& sequences, int64_t begin, int64_t end,
                  std::vector<KeyValueCache>& caches, const Heads& h) {
  std::vector<at::Tensor> parts;
  std::vector<int64_t> offsets = {0};
  std::vector<KeyValueCache*> used;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const int64_t first = std::min(begin, sequences[i].size(0)),
                  last = std::min(end, sequences[i].size(0));
    parts.push_back(sequences[i].narrow(0, first, last - first));
    offsets.push_back(offsets.back() + last - first);
    caches[i].extend(last - first);
    used.push_back(&caches[i]);
  }
  return cached_attention(at::cat(parts), offsets, h.heads, used, 1);
}

/// Sequences that come in several pieces give what they give whole.
void check_pieces(const Heads& h, at::ScalarType dtype, double bound) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> sequences, want;
  std::vector<KeyValueCache> caches;
  for (const int64_t length : {70, 1, 130, 64}) {
    const at::Tensor s = sequence(length, h, length, dtype);
    sequences.push_back(s);
    want.push_back(packed_attention(s, {0, length}, h.heads, h.kv_heads));
    caches.emplace_back(config_of(h), 1, dtype);
  }
  std::vector<std::vector<at::Tensor>> got(sequences.size());
  const std::vector<int64_t> cuts = {0, 1, 2, 60, 63, 64, 65, 66, 129, 130};
  for (std::size_t piece = 0; piece + 1 < cuts.size(); ++piece) {
    const at::Tensor out = attend(sequences, cuts[piece], cuts[piece + 1], caches, h);
    int64_t row = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const int64_t count =
          std::max<int64_t>(0, std::min(cuts[piece + 1], sequences[i].size(0)) - cuts[piece]);
      got[i].push_back(out.narrow(0, row, count));
      row += count;
    }
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    BOOST_CHECK_EQUAL(caches[i].length(), sequences[i].size(0));
    ARCHON_CHECK_NEAR(at::cat(got[i]), want[i], bound);
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(key_value_cache)

BOOST_AUTO_TEST_CASE(sequences_in_pieces) {
  for (const Heads& h : {Heads{4, 4, 16}, Heads{4, 2, 24}, Heads{6, 2, 64}, Heads{10, 2, 80}})
    BOOST_TEST_CONTEXT(h.heads << " heads, " << h.kv_heads << " kv heads, dim " << h.dim) {
      check_pieces(h, at::kFloat, 3e-6);
      check_pieces(h, at::kBFloat16, 2e-2);
    }
}

BOOST_AUTO_TEST_CASE(forks_share_a_beginning_and_go_on_by_themselves) {
  const at::NoGradGuard no_grad;
  const Heads h{4, 2, 16};
  for (const int64_t common : {63, 64, 70}) {
    const at::Tensor a = sequence(common + 9, h, 1, at::kFloat);
    const at::Tensor b = at::cat({a.narrow(0, 0, common), sequence(9, h, 2, at::kFloat)});
    std::vector<KeyValueCache> first, second;
    first.emplace_back(config_of(h), 1, at::kFloat);
    attend({a}, 0, common, first, h);
    second.push_back(first.front().fork());
    for (int64_t t = common; t < common + 9; ++t) {
      const auto last_of = [&](const at::Tensor& x) {
        return packed_attention(x.narrow(0, 0, t + 1), {0, t + 1}, h.heads, h.kv_heads)
            .narrow(0, t, 1);
      };
      ARCHON_CHECK_NEAR(attend({a}, t, t + 1, first, h), last_of(a), 3e-6);
      ARCHON_CHECK_NEAR(attend({b}, t, t + 1, second, h), last_of(b), 3e-6);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
