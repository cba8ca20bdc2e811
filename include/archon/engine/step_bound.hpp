#pragma once

#include <string>
#include <utility>
#include <vector>

#include "archon/engine/gpu.hpp"

/// The least time that a planned step can take on GPUs. docs/gpu-planning.md says what counts, what
/// overlaps, and why it is a lower bound.
namespace archon {

/// How the communicators of one kind lie in a mesh: groups of `size` ranks, `stride` apart.
struct GroupLayout {
  int stride = 1;
  int size = 1;
};

/// What a block of one rank is to the others.
enum class Exchange {
  gather,     ///< the same for all of them (or part of one sum): it enters a node once
  all_to_all  ///< another for each of them
};

/// What the links must carry, in bytes. Both kinds of links work at the same time.
struct LinkLoad {
  double nvlink = 0;   ///< into a GPU, from those of its own node
  double network = 0;  ///< into a node from the others, for each of its GPUs
  double seconds(const Gpu& gpu) const;
};

/// The load of the node with most, while each of `ranks` ranks sends `sent` bytes to the others of
/// its group: blocks of equal size, one to each.
LinkLoad link_load(double sent, GroupLayout groups, Exchange exchange, int ranks,
                   int gpus_per_node);

/// One part of a step's least time.
struct BoundTerm {
  double amount = 0;          ///< FLOP or bytes of a rank
  std::string resource = {};  ///< what it uses up: "NVLink"
  double seconds = 0;
};

using NamedTerms = std::vector<std::pair<std::string, BoundTerm>>;

struct StepBound {
  BoundTerm compute;             ///< matrix products and attention, recomputation included
  BoundTerm tp, cp;              ///< exchanges within blocks, for which computation waits
  BoundTerm units;               ///< values gathered and gradients summed while blocks compute
  BoundTerm sums;                ///< sums over ranks when all blocks are through
  BoundTerm update;              ///< the optimizer's pass over its state
  double tokens_per_second = 0;  ///< of sequences, on one GPU, at most
  double mfu = 0;  ///< TrainingFlop of the sequences over what the GPUs' peak allows, at most

  NamedTerms terms() const;  ///< all, in the order of the table
  /// Those that add up to seconds(): `units`, or what it hides behind, and the rest.
  NamedTerms critical_terms() const;
  double seconds() const;
  std::string largest() const;  ///< name of the longest of the critical terms
};

}  // namespace archon
