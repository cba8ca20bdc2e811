#!/usr/bin/env python3
"""Runs all benchmarks in turns and prints their medians as ratios.

    benchmarks/run.py [--build build/release] [--rounds 3] [--models medium] [--dtypes float32 bfloat16]
                      [--peers DIR --peer-python PYTHON] [--json build/benchmarks.json]

The training step of one rank is measured in rounds: Archon, then every way of
packing that the HuggingFace peer knows, at equal work and threads. Each run is
a process of its own; what is compared are medians over the rounds.
--peers names the folder that holds train_peer.py and --peer-python a Python
with torch and transformers; without them the peers are left out.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKINGS = ("loop", "segments", "mask")


def parse_arguments():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="build folder")
    p.add_argument("--models", nargs="+", default=["medium"], help="names in benchmarks/models")
    p.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    p.add_argument("--packings", nargs="+", default=PACKINGS, choices=PACKINGS)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=5, help="timed steps of each run")
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="ranks of the Ulysses benchmark")
    p.add_argument("--repetitions", type=int, default=50, help="of each Ulysses exchange")
    p.add_argument("--peers", type=pathlib.Path, help="folder with train_peer.py")
    p.add_argument("--peer-python", default=sys.executable)
    p.add_argument("--mpiexec", default="mpiexec")
    p.add_argument("--json", type=pathlib.Path, default=ROOT / "build/benchmarks.json")
    a = p.parse_args()
    if a.peers and not (a.peers / "train_peer.py").is_file():
        p.error(f"{a.peers} holds no train_peer.py")
    for name in ("bench_ulysses", "bench_train_step"):
        if not (a.build / "benchmarks" / name).is_file():
            p.error(f"{a.build}/benchmarks/{name} is not built; configure with -DARCHON_BENCHMARKS=ON and build")
    return a


def run(command, threads=None):
    """Runs a program that writes JSON to the file named by its last argument."""
    environment = dict(os.environ)
    if threads:
        environment.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [str(part) for part in command] + [out.name]
        print("+", " ".join(command[:-1]), file=sys.stderr, flush=True)
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{command[0]} failed with exit code {done.returncode}\n{done.stdout}")
        return json.loads(pathlib.Path(out.name).read_text())


def run_ulysses(a, ranks):
    oversubscribe = ["--oversubscribe"] if ranks > len(os.sched_getaffinity(0)) else []
    return run([a.mpiexec, *oversubscribe, "-n", ranks, a.build / "benchmarks/bench_ulysses", a.repetitions])


def run_archon(a, model, dtype):
    return run([a.build / "benchmarks/bench_train_step", "--config", ROOT / f"benchmarks/models/{model}.json",
                "--dtype", dtype, "--threads", a.threads, "--steps", a.steps, "--warmup", a.warmup, "--json"],
               a.threads)


def run_peer(a, model, dtype, packing):
    return run([a.peer_python, a.peers / "train_peer.py", "--peer", "hf", "--packing", packing,
                "--model", ROOT / f"benchmarks/models/{model}.json", "--dtype", dtype, "--threads", a.threads,
                "--steps", a.steps, "--warmup", a.warmup, "--json"], a.threads)


def run_training(a, model, dtype):
    """Results of each contender, one per round."""
    results = {"archon": []}
    for _ in range(a.rounds):
        results["archon"].append(run_archon(a, model, dtype))
        for packing in a.packings if a.peers else ():
            results.setdefault(f"hf ({packing})", []).append(run_peer(a, model, dtype, packing))
    return results


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def print_ulysses(rows, ranks):
    print(f"\n### Ulysses, {ranks} ranks, float32\n")
    print("| exchange | MiB/rank | MPI_Alltoall ms | Archon ms | copy alone ms | MPI/Archon | spread |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        raw, ours, copy = (row[key]["median"] * 1e3 for key in ("raw_s", "ours_s", "copy_s"))
        ratio = row["raw_over_ours"]
        print(f"| {row['exchange']} | {row['mib']} | {raw:.3f} | {ours:.3f} | {copy:.3f} "
              f"| {ratio['median']:.2f} | {ratio['min']:.2f} to {ratio['max']:.2f} |")


def print_training(model, dtype, results, threads):
    """Archon's share of the peak, and its speed over each peer's of the same round."""
    ours = [row["tokens_per_s"] for row in results["archon"]]
    share = [row["share_of_peak"]["median"] for row in results["archon"]]
    peak = [row["gemm_peak_gflops"]["median"] for row in results["archon"]]
    print(f"\n### Training step, {model}, {dtype}, 1 rank, {threads} threads\n")
    print(f"Matrix products reach {spread(peak, 0)} GFLOP/s; Archon's step {spread(share, 2)} of that.\n")
    print("| program | tokens/s (spread) | GFLOP/s | peak MiB | page faults/step | Archon/this (spread) |")
    print("|---|---|---|---|---|---|")
    for name, rows in results.items():
        rates = [row["tokens_per_s"] for row in rows]
        is_archon = name == "archon"
        gflops = [row["gflops"]["median"] if is_archon else row["gflops"] for row in rows]
        memory = max(row["peak_rss_mib"] if is_archon else max(row["peak_rss_mib"]) for row in rows)
        faults = [row["minor_faults_per_step"] if is_archon else max(row["minor_faults_per_step"]) for row in rows]
        ratio = "" if is_archon else spread([a / b for a, b in zip(ours, rates)], 2)
        print(f"| {name} | {spread(rates, 0)} | {statistics.median(gflops):.0f} | {memory:.0f} "
              f"| {statistics.median(faults):.0f} | {ratio} |")


def main():
    a = parse_arguments()
    if not a.peers:
        print("no --peers: the training step is not compared with HuggingFace's")
    report = {"threads": a.threads, "ulysses": {}, "training": {}}
    for ranks in a.ranks:
        report["ulysses"][ranks] = run_ulysses(a, ranks)
        print_ulysses(report["ulysses"][ranks], ranks)
    for model in a.models:
        for dtype in a.dtypes:
            results = run_training(a, model, dtype)
            report["training"][f"{model} {dtype}"] = results
            print_training(model, dtype, results, a.threads)
    a.json.parent.mkdir(parents=True, exist_ok=True)
    a.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwrote {a.json}")


if __name__ == "__main__":
    main()
