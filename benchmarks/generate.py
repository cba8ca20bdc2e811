#!/usr/bin/env python3
"""Compares `archon generate` with HuggingFace's generate at equal work, in turns, as Markdown.

    PYTHON benchmarks/generate.py [--build build/release] [--models small medium]
        [--dtypes float32 bfloat16] [--rounds 3] [--prompts 64] [--new-tokens 128]

PYTHON needs torch, transformers, h5py and numpy. Both get the same model (random weights of
benchmarks/models), the same prompts of 16 to 128 tokens all at once, and the same threads, and
write greedily so many tokens behind each prompt. Both keep keys and values; HuggingFace pads the
prompts to one length. What counts is the time after the model is loaded. In float32 the tokens are
compared, too.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import h5py
import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent


def parse_arguments():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="build folder")
    p.add_argument("--models", nargs="+", default=["small"], help="names in benchmarks/models")
    p.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--prompts", type=int, default=64)
    p.add_argument("--new-tokens", type=int, default=128)
    return p.parse_args()


def make_work(a, name, folder):
    """A model folder and a file of prompts."""
    config = ROOT / f"benchmarks/models/{name}.json"
    subprocess.run([a.build / "bin/archon", "init", "--config", config, "--output", folder / "model"], check=True,
                   stderr=subprocess.DEVNULL)
    generator = np.random.default_rng(7)
    lengths = generator.integers(16, 129, a.prompts)
    vocabulary = json.loads(config.read_text())["vocab_size"]
    with h5py.File(folder / "prompts.h5", "w") as f:
        f["input_ids"] = generator.integers(0, vocabulary, lengths.sum(), dtype=np.int32)
        f["cu_seqlens"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def sequences(path):
    with h5py.File(path) as f:
        ids, offsets = f["input_ids"][:], f["cu_seqlens"][:]
    return [ids[begin:end].tolist() for begin, end in zip(offsets, offsets[1:])]


def run_archon(a, folder, dtype, threads):
    """Tokens per second, and the sequences."""
    command = [a.build / "bin/archon", "generate", "--model", folder / "model", "--data", folder / "prompts.h5",
               "--output", folder / "rollouts.h5", "--dtype", dtype, "--temperature", 0, "--stop-tokens", "none",
               "--max-new-tokens", a.new_tokens, "--batch-sequences", a.prompts, "--threads", threads]
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)["tokens_per_second"], sequences(folder / "rollouts.h5")


def run_huggingface(a, model, folder):
    prompts = sequences(folder / "prompts.h5")
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    begin = time.monotonic()
    out = model.generate(padded, attention_mask=mask, max_new_tokens=a.new_tokens, min_new_tokens=a.new_tokens,
                         do_sample=False, use_cache=True, pad_token_id=0, eos_token_id=None)
    seconds = time.monotonic() - begin
    completions = out[:, longest:].tolist()
    return len(prompts) * a.new_tokens / seconds, [p + c for p, c in zip(prompts, completions)]


def compare(a, name, dtype, threads):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_work(a, name, folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, dtype)).eval()
        ours, theirs = [], []
        for _ in range(a.rounds):
            speed, mine = run_archon(a, folder, dtype, threads)
            ours.append(speed)
            speed, other = run_huggingface(a, model, folder)
            theirs.append(speed)
        same = sum(x == y for x, y in zip(mine, other))
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"| {name} | {dtype} | {spread(ours)} | {spread(theirs)} | {ratio:.2f} | {same} of {a.prompts} |", flush=True)


def spread(values):
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main():
    a = parse_arguments()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    print(f"{a.prompts} prompts of 16 to 128 tokens, {a.new_tokens} new tokens each, {threads} threads; tokens/s\n")
    print("| model | type | Archon | transformers " + transformers.__version__ + " | ratio | same rollouts |")
    print("|---|---|---|---|---|---|")
    for name in a.models:
        for dtype in a.dtypes:
            compare(a, name, dtype, threads)


if __name__ == "__main__":
    main()
