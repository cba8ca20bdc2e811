#include "archon/model/registry.hpp"
#include "model/support.hpp"

namespace {

using namespace archon::test;
using archon::DecoderConfig;
using archon::validate_cp_heads;
using archon::validate_tp_heads;

DecoderConfig heads(int64_t query, int64_t key) {
  DecoderConfig config;
  config.num_heads = query;
  config.num_kv_heads = key;
  return config;
}

template <class Check>
bool passes(Check check) {
  try {
    check();
    return true;
  } catch (const archon::InputError&) {
    return false;
  }
}

/// The rule told another way: deal the query heads of one tp rank to cp ranks in equal blocks;
/// every block must use the same number of key heads, each of them by the same number of queries,
/// and key heads may be held more than once only where a rank holds a single one.
bool can_be_dealt(int64_t query, int64_t key, int cp) {
  if (query % cp != 0) return false;
  const int64_t group = query / key;  // queries per key head
  const int64_t block = query / cp;   // queries per rank
  for (int64_t first = 0; first < query; first += block) {
    const int64_t first_key = first / group;
    const int64_t last_key = (first + block - 1) / group;
    const bool whole_keys = first % group == 0 && block % group == 0;
    const bool within_one = first_key == last_key && group % block == 0;
    if (!whole_keys && !within_one) return false;
  }
  return true;
}

BOOST_AUTO_TEST_CASE(all_small_numbers_agree_with_the_rule) {
  for (int key = 1; key <= 8; ++key) {
    for (int query = key; query <= 24; query += key) {
      for (int tp = 1; tp <= 9; ++tp) {
        const bool tp_fits = query % tp == 0 && key % tp == 0;
        BOOST_TEST_CONTEXT("heads " << query << " kv " << key << " tp " << tp) {
          BOOST_TEST(passes([&] { validate_tp_heads(heads(query, key), tp); }) == tp_fits);
        }
        for (int cp = 1; cp <= 25; ++cp) {
          const bool fits = tp_fits && can_be_dealt(query / tp, key / tp, cp);
          BOOST_TEST_CONTEXT("heads " << query << " kv " << key << " tp " << tp << " cp " << cp) {
            BOOST_TEST(passes([&] { validate_cp_heads(heads(query, key), cp, tp); }) == fits);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(refusals_say_the_numbers_and_what_fits) {
  check_throws([] { validate_tp_heads(heads(32, 8), 3); },
               {"--tp 3", "32 attention heads", "8 key/value heads", "nearest first: 2, 4, 1, 8"});
  check_throws([] { validate_tp_heads(heads(12, 2), 4); }, {"--tp 4", "nearest first: 2, 1"});
  check_throws(
      [] { validate_cp_heads(heads(16, 4), 3, 2); },
      {"--cp 3", "8 attention heads", "2 key/value heads", "--tp 2", "nearest first: 2, 4, 1, 8"});
  check_throws([] { validate_cp_heads(heads(12, 3), 2, 1); }, {"--cp 2", "nearest first: 1, 3, 6"});
  check_throws([] { validate_cp_heads(heads(16, 4), 2, 3); }, {"--tp 3"});
  check_throws([] { validate_tp_heads(heads(4, 4), 0); }, {"--tp 0"});
  check_throws([] { validate_cp_heads(heads(4, 4), -1, 1); }, {"--cp -1"});
}

}  // namespace
