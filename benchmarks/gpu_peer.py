#!/usr/bin/env python3
"""Trains a Qwen3 model of random weights with HuggingFace transformers on one GPU, beside
bench_train_step --device cuda.

    benchmarks/gpu_peer.py CONFIG [--mode autocast|fsdp2] [--rows N] [--length N] [--steps N]

    CONFIG    HuggingFace's config.json of a Qwen3
    --mode    autocast: float32 weights, products in bfloat16 under torch.autocast
              fsdp2: fully_shard over one rank, bfloat16 parameters, gradients reduced in float32
    --rows    sequences of a step, --length tokens each: no padding and no mask, which suits it best

Fused AdamW, scaled_dot_product_attention. Prints one line of JSON. Needs PyTorch and transformers.
"""

import argparse
import json
import os
import statistics
import time

import torch
import transformers
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

WARMUP = 3


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--mode", choices=["autocast", "fsdp2"], default="autocast")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=8)
    return parser.parse_args()


def make_model(path):
    with open(path) as file:
        values = json.load(file)
    for name in ("model_type", "architectures", "torch_dtype"):
        values.pop(name, None)
    config = transformers.Qwen3Config(**values, attn_implementation="sdpa")
    torch.manual_seed(0)
    with torch.device("cuda"):
        return transformers.Qwen3ForCausalLM(config).float().train()


def shard(model):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", RANK="0", WORLD_SIZE="1")
    torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", 0))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def main():
    args = parse_args()
    model = make_model(args.config)
    if args.mode == "fsdp2":
        shard(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    ids = torch.randint(0, model.config.vocab_size, (args.rows, args.length), device="cuda")
    times = []
    for step in range(-WARMUP, args.steps):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=args.mode == "autocast"):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = loss.item()
        torch.cuda.synchronize()
        if step >= 0:
            times.append(time.perf_counter() - begin)
        elif step == -WARMUP:
            torch.cuda.reset_peak_memory_stats()
    median = statistics.median(times)
    print(json.dumps({
        "mode": args.mode,
        "tokens_per_s": round(args.rows * args.length / median),
        "step_s": {"median": median, "min": min(times), "max": max(times)},
        "peak_memory_mib": torch.cuda.max_memory_allocated() >> 20,
        "loss": last,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gpu": torch.cuda.get_device_name(),
    }))
    if args.mode == "fsdp2":
        torch.distributed.destroy_process_group()


main()
