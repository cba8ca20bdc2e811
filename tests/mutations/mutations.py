"""The table of mutations: one mistake each, and the tests that must notice it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`old` occurs exactly once in `file`; with `new` in its place one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # CTest names, NAME.RANKS


MUTATIONS = [
    # Reduction and norm of gradients
    Mutation(
        "gradient not summed over cp",
        "src/optim/gradients.cpp",
        "mesh.shard_group().all_reduce(parameter->whole_grad())",
        "mesh.dp().all_reduce(parameter->whole_grad())",
        ("gradients.2", "golden.2"),
    ),
    Mutation(
        "gradient not summed over dp",
        "src/optim/gradients.cpp",
        "mesh.shard_group().all_reduce(parameter->whole_grad())",
        "mesh.cp().all_reduce(parameter->whole_grad())",
        ("gradients.2", "golden.2"),
    ),
    Mutation(
        "norm counts a replicated parameter once per tp rank",
        "src/optim/gradients.cpp",
        "parameter->placement() == TpPlacement::replicated && mesh.tp_rank() != 0;",
        "false;",
        ("gradients.2", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "norm counts an unsharded parameter once per rank of the shard group",
        "src/optim/gradients.cpp",
        "parameter->place().size == 1 && mesh.shard_group().rank() != 0;",
        "false;",
        ("gradients.2", "golden.2"),
    ),
    Mutation(
        "norm misses the shards of other ranks",
        "src/optim/gradients.cpp",
        "std::sqrt(mesh.world().all_reduce(",
        "std::sqrt(mesh.tp().all_reduce(",
        ("gradients.2", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "norm misses the tp axis",
        "src/optim/gradients.cpp",
        "std::sqrt(mesh.world().all_reduce(",
        "std::sqrt(mesh.shard_group().all_reduce(",
        ("gradients.2", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "norm weights under sequence parallelism not summed over tp",
        "src/optim/gradients.cpp",
        "reduce_replicated(parameters, mesh.world());",
        "reduce_replicated(parameters, mesh.shard_group());",
        ("gradients.2", "edge_batches.2", "golden.2"),
    ),
    # Sharding and recomputation
    Mutation(
        "reduce-scatter of the last unit not waited for",
        "src/optim/gradients.cpp",
        "  sharding.finish_reduction();\n",
        "",
        ("gradients.2", "golden.2"),
    ),
    Mutation(
        "gradients of earlier micro-batches replaced in the shard",
        "src/parallel/parameter_unit.cpp",
        "    accumulate(grad_, sum);\n",
        "    grad_.copy_(sum);\n",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "a second gradient in one backward replaces the first",
        "src/parallel/parameter_unit.cpp",
        "    place.add_(grad.view({-1}));\n",
        "    place.copy_(grad.view({-1}));\n",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "memory of parameters without gradient is sent as it is",
        "src/parallel/parameter_unit.cpp",
        "    if (!arrived_[i]) outgoing_.narrow(0, begin, end - begin).zero_();\n",
        "    if (!arrived_[i]) outgoing_.narrow(0, begin, end - begin).fill_(1);\n",
        ("sharding.2",),
    ),
    Mutation(
        "values used before they were gathered",
        "src/parallel/parameter_unit.cpp",
        "  if (!present_) start_gather();\n  gathering_.wait();\n",
        "  if (!present_) start_gather();\n",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "values kept from before the step",
        "src/parallel/parameter_unit.cpp",
        "  drop_memory(values_);\n  present_ = false;\n",
        "",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "recomputation draws new random numbers",
        "src/parallel/segment.cpp",
        "    set_random_state(state);\n",
        "",
        ("sharding.1",),
    ),
    Mutation(
        "kept results handed out in the wrong order",
        "src/parallel/recompute.cpp",
        "(*scope->kept_)[scope->next_++]",
        "(*scope->kept_)[scope->kept_->size() - ++scope->next_]",
        ("golden.1",),
    ),
    Mutation(
        "partial sums skipped though their sum is recomputed",
        "src/parallel/tensor_parallel.cpp",
        "use == WhenRecomputed::skip || kept ? ",
        "use != WhenRecomputed::compute ? ",
        ("golden.2",),
    ),
    Mutation(
        "reduce-scatter forgets the other ranks",
        "src/comm/mpi_backend.cpp",
        "in_order(own, others, rank), ReduceOp::sum);",
        "{own}, ReduceOp::sum);",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "gradients of later micro-batches counted twice in the shard",
        "src/parallel/parameter_unit.cpp",
        "    accumulate(grad_, sum);\n",
        "    grad_.add_(sum).add_(sum);\n",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "reduce-scatter under way dropped for the next",
        "src/comm/work.cpp",
        "    wait();\n    finish_ = ",
        "    finish_ = ",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "bfloat16 gradients summed in bfloat16",
        "src/parallel/parameter_unit.cpp",
        "const at::Tensor sum = at::empty({block_}, master_.options());",
        "const at::Tensor sum = at::empty({block_}, outgoing_.options());",
        ("sharding.2",),
    ),
    Mutation(
        "values of --shard optimizer not gathered after a step",
        "src/parallel/parameter_unit.cpp",
        "  if (sharding_->sharded())\n    start_gather();\n",
        "  if (sharding_->sharded())\n    gathering_.wait();\n",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "released values used in backward",
        "src/parallel/segment.cpp",
        "  if (segment.backward_uses_values) segment.unit.gather();\n",
        "",
        ("sharding.2", "golden.2"),
    ),
    Mutation(
        "memory of released values is kept",
        "src/parallel/parameter_unit.cpp",
        "  drop_memory(values_);\n  present_ = false;\n",
        "  present_ = false;\n",
        ("sharding.2",),
    ),
    Mutation(
        "values released between forward and backward though they are to be held",
        "src/parallel/parameter_unit.cpp",
        " || (after_forward && !sharding_->policy().reshard_after_forward)",
        "",
        ("sharding.2", "plan.2"),
    ),
    Mutation(
        "a shard filled from the beginning of its row",
        "src/model/load_weights.cpp",
        "mine.begin - part.begin - first * row, mine.size()",
        "0, mine.size()",
        ("weights.2", "golden.2"),
    ),
    Mutation(
        "recomputation disturbs the random numbers drawn after it",
        "src/parallel/segment.cpp",
        "  ~ReplayedRandomness() { set_random_state(outside_); }\n",
        "",
        ("sharding.1",),
    ),
    Mutation(
        "attention's output not computed again though the residual needs it",
        "src/model/decoder.cpp",
        "output_.value(), *tp_,\n                             WhenRecomputed::reuse)",
        "output_.value(), *tp_,\n                             WhenRecomputed::skip)",
        ("golden.1",),
    ),
    Mutation(
        "every-K recomputes the other blocks",
        "src/model/model.cpp",
        "layer % every == 0",
        "layer % every != 0",
        ("plan.2",),
    ),
    Mutation(
        "a plan forgets Ulysses' exchange in recomputation",
        "src/engine/plan_traffic.cpp",
        "recompute == Recompute::none ? 2 : 3",
        "2",
        ("plan.2",),
    ),
    Mutation(
        "a unit's asynchronous transfers not counted as sent",
        "src/comm/communicator.cpp",
        "  sent_ += sent;\n",
        "  if (!async) sent_ += sent;\n",
        ("communicator.2", "plan.2"),
    ),
    Mutation(
        "dp ranks balanced by number of sequences",
        "src/data/packing.cpp",
        "load[rank] += costs[entry];",
        "load[rank] += costs[entry] / costs[entry];",
        ("data.1",),
    ),
    Mutation(
        "dp ranks balanced by tokens, whatever attention costs",
        "src/engine/batcher.cpp",
        "costs[i / unit] += flop_.of_sequence(length);",
        "costs[i / unit] += static_cast<double>(length);",
        ("plan.2",),
    ),
    Mutation(
        "clip coefficient may enlarge",
        "src/optim/clip.cpp",
        "std::min(1.0, max_norm / (norm + 1e-6))",
        "max_norm / (norm + 1e-6)",
        ("optim.1",),
    ),
    Mutation(
        "gradients are not clipped",
        "src/engine/train_step.cpp",
        "clip_coefficient(result.grad_norm, options.clip_grad_norm)",
        "1.0",
        ("golden.1",),
    ),
    Mutation(
        "gradients of the last step are kept",
        "src/engine/train_step.cpp",
        "  for (ParameterUnit* unit : units) unit->clear_gradients();\n",
        "",
        ("golden.1",),
    ),
    # Tied weights
    Mutation(
        "tied head gives the embedding no gradient",
        "src/engine/objective.cpp",
        "{model.head().value(), model.config()",
        "{model.config().tied_embeddings ? model.head().value().detach() : model.head().value(), "
        "model.config()",
        ("golden.1",),
    ),
    Mutation(
        "tied embedding is a copy that drifts from the head",
        "src/model/decoder.cpp",
        "vocab_parallel_embedding(ids, embedding_.value(),",
        "vocab_parallel_embedding(ids, [&] {\n"
        "      static const Decoder* owner = nullptr;\n"
        "      static at::Tensor copy;\n"
        "      if (owner != this) copy = embedding_.value().detach().clone();\n"
        "      owner = this;\n"
        "      return copy + (embedding_.value() - embedding_.value().detach());\n"
        "    }(),",
        ("golden.1", "edge_batches.2"),
    ),
    # Labels, positions, boundaries
    Mutation(
        "labels cross a sequence boundary",
        "src/data/batch.cpp",
        "  copy_shifted(batch.target_mask, begin, sequence.loss_mask);\n",
        "  copy_shifted(batch.target_mask, begin, sequence.loss_mask);\n"
        "  if (begin > 0) {\n"
        "    batch.labels.narrow(0, begin - 1, 1).copy_(sequence.tokens.narrow(0, 0, 1));\n"
        "    batch.target_mask.narrow(0, begin - 1, 1).fill_(true);\n"
        "  }\n",
        ("data.1", "golden.1"),
    ),
    Mutation(
        "labels are made after slicing",
        "src/data/batch.cpp",
        "  mine.labels = slice(batch.labels);\n",
        "  mine.labels = slice(batch.labels).clone();\n"
        "  if (cp_rank + 1 < cp) mine.labels.narrow(0, size - 1, 1).fill_(kNoLabel);\n",
        ("data.1", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "positions do not restart at a sequence",
        "src/data/batch.cpp",
        "std::iota(values + begin, values + end, 0);",
        "std::iota(values + begin, values + end, begin);",
        ("data.1",),
    ),
    Mutation(
        "positions restart at a slice",
        "src/data/batch.cpp",
        "mine.positions = slice(batch.positions);",
        "mine.positions = batch.positions.narrow(0, 0, size);",
        ("data.1", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "attention crosses sequence boundaries",
        "src/model/decoder.cpp",
        "packed_attention(qkv, context.cu_seqlens,",
        "packed_attention(qkv, {0, context.cu_seqlens.back()},",
        ("golden.1",),
    ),
    # Key/value heads that go to several cp ranks
    Mutation(
        "gradient of a repeated key/value head not summed",
        "src/parallel/ulysses.cpp",
        "for (int c = 0; c < copies; ++c)",
        "for (int c = 0; c < 1; ++c)",
        ("parallel.4", "edge_batches.4", "golden.4"),
    ),
    Mutation(
        "cp ranks take the wrong key/value head",
        "include/archon/parallel/ulysses_heads.hpp",
        "return rank * kv_heads / cp;",
        "return rank % kv_heads;",
        ("parallel.4", "edge_batches.4", "golden.4"),
    ),
    # Ranks without work
    Mutation(
        "dp rank without target: loss over the local count",
        "src/engine/train_step.cpp",
        "return mesh.dp().all_reduce(targets);",
        "return targets;",
        ("edge_batches.2", "golden.2"),
    ),
    Mutation(
        "dp rank without target: takes no step",
        "src/engine/train_step.cpp",
        "  if (result.targets == 0) {",
        "  int64_t own = 0;\n"
        "  for (const PackedBatch& batch : batches) own += batch.targets;\n"
        "  if (own == 0) {",
        # Seen where the idle rank's weights enter the next loss.
        ("edge_batches.2",),
    ),
    Mutation(
        "dp rank without sequence: its padding is trained on",
        "src/data/batch.cpp",
        "  batch.targets = batch.target_mask.sum().item<int64_t>();\n",
        "  if (sequences.empty()) batch.labels.fill_(0), batch.target_mask.fill_(true);\n"
        "  batch.targets = batch.target_mask.sum().item<int64_t>();\n",
        ("data.1", "edge_batches.2"),
    ),
    Mutation(
        "dp rank without sequence: has no micro-batch",
        "src/data/packing.cpp",
        "  for (auto& bins : plan) bins.resize(micro_batches);\n",
        "",
        ("data.1",),
    ),
    Mutation(
        "dp rank without sequence: stays out of the reduction",
        "src/engine/train_step.cpp",
        "  reduce_gradients(units, model.sharding(), mesh);\n",
        "  if (!batches.front().sequences.empty()) reduce_gradients(units, model.sharding(), mesh);\n",
        ("edge_batches.2",),
    ),
    Mutation(
        "every dp rank trains on the first one's sequences",
        "src/engine/batcher.cpp",
        "plan[mesh_.dp_rank()]",
        "plan[0]",
        ("edge_batches.2", "golden.2"),
    ),
    # Odd lengths and padding
    Mutation(
        "sequence of length 1: is skipped by attention",
        "src/model/attention.cpp",
        "blocks = kernels::attention_blocks(length);",
        "blocks = length == 1 ? 0 : kernels::attention_blocks(length);",
        ("ops.1",),
    ),
    Mutation(
        "sequence of length 1: its token is its own target",
        "src/data/batch.cpp",
        "  batch.cu_seqlens.push_back(end);\n",
        "  if (end - begin == 1) {\n"
        "    batch.labels.narrow(0, begin, 1).copy_(sequence.tokens);\n"
        "    batch.target_mask.narrow(0, begin, 1).fill_(true);\n"
        "  }\n"
        "  batch.cu_seqlens.push_back(end);\n",
        ("data.1", "edge_batches.2"),
    ),
    Mutation(
        "prime total length: not padded to tp·cp",
        "src/data/packing.cpp",
        "return std::lcm(std::min(page_tokens, pad_limit), static_cast<int64_t>(tp) * cp);",
        "return std::min(page_tokens, pad_limit) + 0 * tp * cp;",
        ("data.1", "edge_batches.2"),
    ),
    Mutation(
        "prime total length: the tail is cut off",
        "src/data/packing.cpp",
        "(tokens + multiple - 1) / multiple)",
        "tokens / multiple)",
        ("data.1", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "padding is a target",
        "src/data/batch.cpp",
        "  batch.targets = batch.target_mask.sum().item<int64_t>();\n",
        "  batch.labels.narrow(0, tokens, batch.padded_tokens - tokens).fill_(0);\n"
        "  batch.target_mask.narrow(0, tokens, batch.padded_tokens - tokens).fill_(true);\n"
        "  batch.targets = batch.target_mask.sum().item<int64_t>();\n",
        ("data.1", "edge_batches.2", "golden.1"),
    ),
    Mutation(
        "padding belongs to the last sequence",
        "src/data/batch.cpp",
        "  count_up(batch.positions, tokens, batch.padded_tokens);\n",
        "  count_up(batch.positions, tokens, batch.padded_tokens);\n"
        "  batch.cu_seqlens.back() = batch.padded_tokens;\n",
        ("data.1",),
    ),
    Mutation(
        "attention leaves padding as it finds it",
        "src/model/attention.cpp",
        "  out.narrow(0, cu_seqlens.back(), out.size(0) - cu_seqlens.back()).zero_();\n",
        "",
        ("ops.1",),
    ),
    Mutation(
        "attention's backward leaves padding as it finds it",
        "src/model/attention.cpp",
        "    qkv_grad.narrow(0, cu_seqlens.back(), qkv.size(0) - cu_seqlens.back()).zero_();\n",
        "",
        ("ops.1",),
    ),
    Mutation(
        "attention's diagonal: scores of too many queries skipped",
        "src/model/attention_tiles.inc",
        "column + kColumns * kWidth <= r)",
        "column <= r)",
        ("attention_kernels.1",),
    ),
    Mutation(
        "attention's diagonal: a sum over keys ends before the query's own",
        "src/model/attention_tiles.inc",
        "(r + kRows) / kPerLane<T> : steps",
        "r / kPerLane<T> : steps",
        ("ops.1",),
    ),
    Mutation(
        "attention's diagonal: a sum over queries begins behind the key's own",
        "src/model/attention_tiles.inc",
        "? r / kPerLane<T> : 0",
        "? (r + kRows) / kPerLane<T> : 0",
        ("ops.1",),
    ),
    Mutation(
        "a weight's gradient in tiles (AMX): only the last part of a long sum",
        "src/parallel/matmul_tiles.cpp",
        "steps, depth > 0,",
        "steps, false,",
        ("parallel.1",),
    ),
    Mutation(
        "a weight's gradient in tiles (AMX): columns stay interleaved",
        "src/parallel/matmul_tiles.cpp",
        "_mm512_permutexvar_epi16(order, row));",
        "row);",
        ("parallel.1",),
    ),
    Mutation(
        "attention finds rows of keys at twice their distance (bfloat16 pairs)",
        "src/model/attention_tiles.inc",
        "(x), stride / kPerLane<T>, 1};",
        "(x), stride, 1};",
        ("attention_kernels.1",),
    ),
    Mutation(
        "key gradients of one query head only",
        "src/model/attention.cpp",
        "key_value.stride(1), group, d);",
        "key_value.stride(1), 1, d);",
        ("ops.1",),
    ),
    Mutation(
        "attention's backward does not mask later keys",
        "src/model/attention_tiles.inc",
        "      if (diagonal) mask_diagonal(scores);\n      gradient_tile",
        "      gradient_tile",
        ("ops.1",),
    ),
    Mutation(
        "sums of earlier keys not scaled to the new maximum",
        "src/model/attention_tiles.inc",
        "    scale_rows(sums, state.factor, sizes.padded);\n",
        "",
        ("ops.1",),
    ),
    Mutation(
        "attention in tiles (AMX): a quarter too much skipped on the diagonal",
        "src/model/attention_tiles.inc",
        "r / 2 + 16 : steps",
        "r / 2 : steps",
        ("attention_kernels.1",),
    ),
    Mutation(
        "SwiGLU divides by an infinite exponential",
        "src/model/kernels.cpp",
        "std::exp(std::min(-x, 87.0f))",
        "std::exp(-x)",
        ("ops.1",),
    ),
    Mutation(
        "attention takes a score that is no number for a masked one (without AVX-512)",
        "src/model/attention_tiles.inc",
        "larger(fill(-126.0F), x)",
        "larger(x, fill(-126.0F))",
        ("attention_kernels.1",),
    ),
    # Losses
    Mutation(
        "the largest logit is scaled, and so rounded, before it is subtracted",
        "src/loss/softmax_math.hpp",
        "(logit - whole.max) * scale - std::log",
        "logit * scale - whole.max * scale - std::log",
        ("loss.1", "loss.2"),
    ),
    Mutation(
        "a token that is none of the model's comes up on one rank alone",
        "src/engine/preparation.cpp",
        "TokenDataset(data, vocab).check_all();",
        "TokenDataset(data, vocab);",
        ("feed.1",),
    ),
    Mutation(
        "a checkpoint's config names the type of the masters",
        "src/checkpoint/checkpoint_writer.cpp",
        "write_hf_companions(companions, temporary, stored_dtype)",
        "write_hf_companions(companions, temporary, at::kFloat)",
        ("checkpoint_commands.1",),
    ),
    Mutation(
        "loss not summed over cp",
        "src/engine/train_step.cpp",
        "  loss = mesh.shard_group().all_reduce(loss);",
        "  loss = mesh.dp().all_reduce(loss);",
        ("edge_batches.2", "golden.2"),
    ),
    Mutation(
        "critic loss not summed over tp",
        "src/engine/objective.cpp",
        "mesh.tp().all_reduce(loss.item<double>())",
        "loss.item<double>()",
        ("golden.2",),
    ),
    Mutation(
        "labels looked up as if tp rank 0 held the whole head",
        "src/loss/log_probs.cpp",
        "place_{even_range(head.vocab_size, head.tp.size(), head.tp.rank()).begin,",
        "place_{0,",
        ("loss.2", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "softmax over a rank's own part of the vocabulary",
        "src/loss/log_probs.cpp",
        "return softmax_rows::merged(all, place_.scale);",
        "return mine;",
        ("loss.2", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "sums of exponentials merged without their maxima",
        "src/loss/softmax_math.hpp",
        "shift = (s.max - max) * scale, factor = std::exp(shift);",
        "shift = (s.max - max) * scale, factor = 1.0F;",
        ("loss.2", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "tp ranks cut their chunks differently",
        "src/loss/log_probs.cpp",
        "logit_chunk_tokens(head.weight.size(1));\n  for (",
        "logit_chunk_tokens(head.weight.size(1)) + head.tp.rank();\n  for (",
        ("loss.2",),
    ),
    # Tensor parallelism and collectives
    Mutation(
        "gradient of an all_gather not summed",
        "src/parallel/collectives.cpp",
        "return LinearMap::apply(x, gather_map(comm, rows), scatter_map(comm, rows));",
        "return LinearMap::apply(x, gather_map(comm, rows), [&comm, rows](const at::Tensor& g) {\n"
        "    int64_t begin = 0;\n"
        "    for (int r = 0; r < comm.rank(); ++r)\n"
        "      begin += rows.empty() ? g.size(0) / comm.size() : rows[r];\n"
        "    return g.narrow(0, begin,\n"
        "                    rows.empty() ? g.size(0) / comm.size() : rows[comm.rank()]).clone();\n"
        "  });",
        ("parallel.2", "edge_batches.2", "golden.2"),
    ),
    Mutation(
        "gradient of an all_reduce not summed",
        "src/parallel/collectives.cpp",
        "return LinearMap::apply(x, map, map);",
        "return LinearMap::apply(x, map, [](const at::Tensor& grad) { return grad; });",
        ("parallel.2",),
    ),
    Mutation(
        "embedding looks up rows as if it held the whole table",
        "src/model/decoder.cpp",
        "embedding_.tp_range(0).begin, *tp_);",
        "0, *tp_);",
        ("edge_batches.2", "golden.2"),
    ),
    Mutation(
        "bfloat16 sums round at every step",
        "src/comm/reduce.cpp",
        "struct Accumulator<c10::BFloat16> {\n  using type = float;",
        "struct Accumulator<c10::BFloat16> {\n  using type = c10::BFloat16;",
        ("communicator.3", "communicator.4"),
    ),
    Mutation(
        "reductions leave the last rank out",
        "src/comm/reduce.cpp",
        "in.push_back(block.const_data_ptr<scalar_t>());\n",
        "in.push_back(block.const_data_ptr<scalar_t>());\n        if (in.size() > 2) in.pop_back();\n",
        ("communicator.3", "gradients.4"),
    ),
    Mutation(
        "mesh axes in another order",
        "src/mesh/mesh.cpp",
        'dp_(cart_sub(world_.mpi(), {1, 0, 0}, "dp"))',
        'dp_(cart_sub(world_.mpi(), {0, 0, 1}, "dp"))',
        ("mesh.2",),
    ),
    # bfloat16
    Mutation(
        "bfloat16 weights not refreshed after a step",
        "src/engine/train_step.cpp",
        "    for (ParameterUnit* unit : units) unit->refresh_values();\n",
        "",
        ("edge_batches.1",),
    ),
    Mutation(
        "bfloat16 gradients of earlier micro-batches are lost",
        "src/parallel/parameter_unit.cpp",
        "accumulate(parameter.grad_, grad.contiguous());",
        "parameter.grad_.copy_(grad);",
        ("parameter.1",),
    ),
    # Reinforcement learning
    Mutation(
        "losses divided by what one dp rank counts",
        "src/engine/train_step.cpp",
        "std::max(mesh.dp().all_reduce(size), 1.0)",
        "std::max(size, 1.0)",
        ("rollouts.2",),
    ),
    Mutation(
        "statistics of one dp rank alone",
        "src/engine/trainer.cpp",
        "statistics.reduce(mesh_.world())",
        "statistics.reduce(mesh_.cp())",
        ("rollouts.2",),
    ),
    Mutation(
        "entropy punished",
        "src/engine/objective.cpp",
        "loss - options.entropy_coefficient * entropy",
        "loss + options.entropy_coefficient * entropy",
        ("rollouts.1",),
    ),
    Mutation(
        "a pair's loss counted by every cp rank",
        "src/engine/objective.cpp",
        "terms.mesh.cp_rank() == 0 ? terms.scale : 0.0",
        "terms.scale",
        ("rollouts.2",),
    ),
    Mutation(
        "pairs torn apart by the order of an epoch",
        "src/engine/training_data.cpp",
        "position_.consumed.size(), objective_.unit())",
        "position_.consumed.size(), 1)",
        ("rollouts.1",),
    ),
    Mutation(
        "a file's proximal policy computed anew on resume",
        "src/engine/training_data.cpp",
        "preparation_.check(feed_.path(position_.file), beside, position.began);\n    });",
        "});\n    preparation_.run(feed_.path(position_.file), "
        "preparation_.lacking(feed_.path(position_.file)), beside, position.began);",
        ("rollouts.1",),
    ),
    Mutation(
        "a collective that does not wait for what was computed",
        "src/comm/gpu_backend.cpp",
        "runtime_.wait(stream_, runtime_.record(runtime_.current_stream()));",
        "",
        ("communicator_nccl.2",),
    ),
    Mutation(
        "a tensor whose memory the stream does not keep",
        "src/comm/gpu_backend.cpp",
        "return launch(operation, {output, input, parts}, [&] {",
        "return launch(operation, {output, input}, [&] {",
        ("communicator_nccl.2",),
    ),
    Mutation(
        "a result that nobody waits for",
        "src/comm/gpu_backend.cpp",
        "Work work([&runtime = runtime_, done] { runtime.wait(runtime.current_stream(), done); });",
        "Work work([] {});",
        ("communicator_nccl.2",),
    ),
    Mutation(
        "a copy put on the stream before NCCL's calls",
        "src/comm/gpu_backend.cpp",
        "  runtime_.group_end();\n  settle(\"ncclGroupEnd\");\n}",
        "  runtime_.group_end();\n}",
        ("communicator_nccl.2",),
    ),
    Mutation(
        "sends outside a group",
        "src/comm/gpu_backend.cpp",
        "  const auto element = static_cast<int64_t>(input.element_size());\n"
        "  runtime_.group_start();\n  for (int peer = 0; peer < size_; ++peer) {\n"
        "    if (peer == rank_) continue;\n    if (input_blocks",
        "  const auto element = static_cast<int64_t>(input.element_size());\n"
        "  for (int peer = 0; peer < size_; ++peer) {\n"
        "    if (peer == rank_) continue;\n    if (input_blocks",
        ("communicator_nccl.2",),
    ),
    Mutation(
        "bfloat16 added up by NCCL",
        "src/comm/gpu_backend.cpp",
        "{ return c10::isReducedFloatingType(tensor.scalar_type()); }",
        "{ return tensor.dim() < 0; }",
        ("communicator_nccl.3",),
    ),
    Mutation(
        "NCCL asked by the watchdog while a call is taken in",
        "src/comm/gpu_backend.cpp",
        "if (calls && runtime_.state(comm_)",
        "if (runtime_.state(comm_)",
        ("communicator_nccl.2",),
    ),
    Mutation(
        "a part of an NCCL communicator taken before it is there",
        "src/comm/gpu_backend.cpp",
        "  settle(\"ncclCommSplit\");\n",
        "",
        ("communicator_nccl.2",),
    ),
    Mutation(
        "a GPU's time-out that is not looked at",
        "src/comm/gpu_backend.cpp",
        "if (std::chrono::steady_clock::now() - oldest.since <= timeout) return \"\";",
        "if (timeout.count() > 0) return \"\";",
        ("communicator_nccl.1",),
    ),
    Mutation(
        "key heads of a block in the wrong place on a GPU",
        "include/archon/parallel/ulysses_heads.hpp",
        "first_kv_head(rank) + (slot - q) % kv",
        "first_kv_head(rank) + (slot - q) / 2 % kv",
        ("ulysses_layout.1",),
    ),
    # On a GPU
    Mutation(
        "an offloaded activation used before it is back",
        "src/parallel/offload.cpp",
        "  gpu_.wait(gpu_.current_stream(), stored->returned);\n",
        "",
        ("offload.1",),
    ),
    # Asynchronous saves
    Mutation(
        "an optimizer steps while its state is copied",
        "src/optim/optimizer.cpp",
        "  if (before_step_) std::exchange(before_step_, nullptr)();\n",
        "",
        ("checkpoint_writer.1", "checkpoint_writer.2"),
    ),
]
