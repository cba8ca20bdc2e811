#!/usr/bin/env python3
"""Tells, as Markdown, which mesh `archon plan` puts first for models, numbers of GPUs and lengths."""

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import command_line

EXAMPLES = """\
examples:
  plan_table.py docs/models/qwen3-8b.json --gpu h100
  plan_table.py config.json --gpu b200 --gpus 16 32 --lengths 32768 --step-tokens 1048576
"""
# From no recomputation to most: of two that take as long, the first is shown.
RECOMPUTATION = {
    "none": [],
    "selective": ["--activation-checkpointing", "selective"],
    "full": ["--activation-checkpointing", "full"],
    "full, tiles": ["--activation-checkpointing", "full", "--mlp-tile-tokens", "2048"],
}
TITLES = ("GPUs", "tokens per sequence", "dp x cp x tp", "recomputed", "GB", "step, s", "bound by",
          "tokens/s/GPU", "MFU")


class PlanFailed(Exception):
    pass


def meshes(options, model, gpus, length, recomputation):
    """What the program says of every mesh, best first."""
    command = [options.archon, "plan", "--model", model, "--device", "cuda", "--gpu", options.gpu,
               "--dtype", "bfloat16", "--world-size", gpus, "--max-sequence", length,
               "--micro-batch-tokens", length,
               "--batch-sequences", max(1, options.step_tokens // length), "--json", *recomputation]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if not done.stdout:  # a plan of meshes that do not fit is printed, too
        raise PlanFailed(done.stderr.strip().removeprefix("archon: error: "))
    return json.loads(done.stdout)


def tokens(count):
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def seconds(mesh):
    return mesh["bound"]["seconds"]


def best_plan(options, model, gpus, length):
    """(mesh, name of its recomputation): the fastest that fits, or else the smallest."""
    fitting, smallest = [], []
    for name, recomputation in RECOMPUTATION.items():
        plans = meshes(options, model, gpus, length, recomputation)
        fitting += [(mesh, name) for mesh in plans if mesh["fits"]]
        smallest.append((min(plans, key=lambda mesh: mesh["peak_bytes"]), name))
        # More recomputation takes longer on every mesh.
        if fitting and min(seconds(mesh) for mesh, _ in fitting) <= min(map(seconds, plans)):
            break
    if fitting:
        return min(fitting, key=lambda plan: seconds(plan[0]))
    return min(smallest, key=lambda plan: plan[0]["peak_bytes"])


def row(options, model, gpus, length):
    mesh, recomputed = best_plan(options, model, gpus, length)
    place, bound = (gpus, tokens(length)), mesh["bound"]
    if not mesh["fits"]:
        return (*place, "none fits", "", f"{mesh['peak_bytes'] / 1e9:.1f}", "", "", "", "")
    return (*place, " x ".join(str(mesh["mesh"][axis]) for axis in ("dp", "cp", "tp")), recomputed,
            f"{mesh['peak_bytes'] / 1e9:.1f}", f"{bound['seconds']:.3g}", bound["largest"],
            f"{bound['tokens_per_second']:.0f}", f"{bound['mfu']:.2f}")


def print_row(cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def print_tables(options):
    places = list(itertools.product(options.gpus, options.lengths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for model in options.models:
            rows = list(pool.map(lambda place: row(options, model, *place), places))
            print(f"### {Path(model).stem}\n")
            print_row(TITLES)
            print("|" + "---|" * len(TITLES))
            for cells in rows:
                print_row(cells)
            print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="config.json, or its folder")
    parser.add_argument("--gpu", required=True, help="as in archon plan")
    parser.add_argument("--gpus", nargs="+", type=command_line.positive, metavar="N",
                        default=[8, 64, 256, 1024], help="numbers of GPUs [8 64 256 1024]")
    parser.add_argument("--lengths", nargs="+", type=command_line.positive, metavar="N",
                        default=[1 << 13, 1 << 16, 1 << 18, 1 << 20],
                        help="tokens of every sequence [8192 65536 262144 1048576]")
    parser.add_argument("--step-tokens", type=command_line.positive, default=1 << 22, metavar="N",
                        help="tokens of a step, in as many sequences as that makes [4194304]")
    parser.add_argument("--archon", default="archon", help="the program [archon]")
    options = parser.parse_args()
    return command_line.run(lambda: print_tables(options), PlanFailed)


if __name__ == "__main__":
    sys.exit(main())
