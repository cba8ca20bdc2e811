#!/usr/bin/env python3
"""Runs the benchmarks in turns and prints their medians as ratios, as Markdown.

    .venv/bin/python benchmarks/run.py [--build build/release] [--rounds 3] [--models small medium]
        [--dtypes float32 bfloat16] [--meshes one dp2 cp2 tp2 cp2tp2]
        [--peers DIR --peer-python PYTHON [--areal-dir DIR]] [--json build/benchmarks.json]

The training step is measured in rounds: Archon, then every peer that can do the same work on the
same mesh with the same threads. Each run is a process of its own; what is compared are medians over
the rounds. Start-up is the time from the launch of `archon train` (or of the peer) until its first
step begins.

--peers names the folder that holds train_peer.py and --peer-python a Python with torch and
transformers; --areal-dir a checkout of inclusionAI/AReaL. Without them these peers are left out.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
LENGTHS = (512, 384, 128, 1024)  # of the sequences of each dp rank, as everybody here packs them
MESHES = {"one": (1, 1, 1), "dp2": (2, 1, 1), "cp2": (1, 2, 1), "tp2": (1, 1, 2), "cp2tp2": (1, 2, 2)}
# Keeps freed memory in the process: the fastest that the peers can be made by settings alone.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000",
          "THP_MEM_ALLOC_ENABLE": "1"}
AREAL = "AReaL's engine"
# By mesh: name, arguments, environment.
PEERS = {
    "one": [("hf (loop)", ["--peer", "hf", "--packing", "loop"], {}),
            ("hf (segments)", ["--peer", "hf", "--packing", "segments"], {}),
            ("hf (segments, malloc)", ["--peer", "hf", "--packing", "segments"], MALLOC),
            ("hf (segments, compiled)", ["--peer", "hf", "--packing", "segments", "--compile"], {})],
    "dp2": [("FSDP2 (segments)", ["--peer", "hf-fsdp2", "--packing", "segments"], {}),
            ("FSDP2 (segments, malloc)", ["--peer", "hf-fsdp2", "--packing", "segments"], MALLOC)],
    "cp2": [(AREAL, ["--peer", "archon", "--cp", "2"], {})],
    "tp2": [(AREAL, ["--peer", "archon", "--tp", "2"], {})],
    "cp2tp2": [(AREAL, ["--peer", "archon", "--cp", "2", "--tp", "2"], {})],
}


def parse_arguments():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="build folder")
    p.add_argument("--models", nargs="+", default=["medium"], help="names in benchmarks/models")
    p.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    p.add_argument("--meshes", nargs="*", default=["one"], choices=list(MESHES))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=5, help="timed steps of each run")
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--ulysses", type=int, nargs="*", default=[2, 4], help="ranks of the Ulysses benchmark")
    p.add_argument("--repetitions", type=int, default=50, help="of each Ulysses exchange")
    p.add_argument("--peers", type=pathlib.Path, help="folder with train_peer.py")
    p.add_argument("--peer-python", default=sys.executable)
    p.add_argument("--areal-dir", default=os.environ.get("AREAL_DIR", ""))
    p.add_argument("--mpiexec", default="mpiexec")
    p.add_argument("--json", type=pathlib.Path, default=ROOT / "build/benchmarks.json")
    a = p.parse_args()
    if a.peers and not (a.peers / "train_peer.py").is_file():
        p.error(f"{a.peers} holds no train_peer.py")
    for name in ("benchmarks/bench_ulysses", "benchmarks/bench_train_step", "bin/archon"):
        if not (a.build / name).is_file():
            p.error(f"{a.build}/{name} is not built; configure with -DARCHON_BENCHMARKS=ON and build")
    return a


def cores():
    return len(os.sched_getaffinity(0))


def mpi(a, ranks):
    return [a.mpiexec, *(["--oversubscribe"] if ranks > cores() else []), "-n", ranks]


def threads_of(mesh):
    return max(1, cores() // int(np.prod(MESHES[mesh])))


def run(command, threads=None, extra=None):
    """Runs a program that writes JSON to the file named by its last argument."""
    environment = dict(os.environ, **(extra or {}))
    if threads:
        environment.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [str(part) for part in command] + [out.name]
        print("+", " ".join(command[:-1]), file=sys.stderr, flush=True)
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        result = pathlib.Path(out.name).read_text()
        if done.returncode:
            failure = f"{command[0]} failed with exit code {done.returncode}"
            if not result:
                sys.exit(f"{failure}\n{done.stdout}")
            # LibTorch's threads now and then abort a process that has measured and is on its way out.
            print(f"{failure} after it had written its result, which counts", file=sys.stderr)
        return json.loads(result)


def run_ulysses(a, ranks):
    return run([*mpi(a, ranks), a.build / "benchmarks/bench_ulysses", a.repetitions])


class Work:
    """A model and its data, in a folder of its own."""

    def __init__(self, a, folder, model):
        self.name, self.folder = model, folder / model
        self.config = ROOT / f"benchmarks/models/{model}.json"
        subprocess.run([a.build / "bin/archon", "init", "--config", self.config, "--output", self.folder / "model"],
                       check=True, stderr=subprocess.DEVNULL)
        vocabulary = json.loads(self.config.read_text())["vocab_size"]
        for dp in {shape[0] for shape in MESHES.values()}:
            tokens = np.random.default_rng(7).integers(0, vocabulary, dp * sum(LENGTHS), dtype=np.int32)
            with h5py.File(self.data(dp), "w") as f:
                f["input_ids"] = tokens
                f["cu_seqlens"] = np.cumsum([0, *LENGTHS * dp]).astype(np.int64)

    def data(self, dp):
        return self.folder / f"data_{dp}.h5"


def seconds_to_first_step(a, work, dtype, mesh):
    """Of `archon train`, from its launch until its first step begins."""
    dp, cp, tp = MESHES[mesh]
    ranks = dp * cp * tp
    output = work.folder / "run"
    command = [*(mpi(a, ranks) if ranks > 1 else []), a.build / "bin/archon", "train", "--model", work.folder / "model",
               "--data", work.data(dp), "--dtype", dtype, "--cp", cp, "--tp", tp, "--steps", 1,
               "--batch-sequences", 0, "--micro-batch-tokens", sum(LENGTHS), "--save-hf", "off", "--output", output]
    begin = time.monotonic()
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS=str(threads_of(mesh)))) as process:
        done = [time.monotonic() for line in process.stderr if line.startswith("step 1/1")]
    if not done:
        sys.exit(f"{' '.join(map(str, command))} took no step")
    row = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    return done[0] - begin - row["seconds"]


def run_archon(a, work, dtype, mesh):
    dp, cp, tp = MESHES[mesh]
    ranks, threads = dp * cp * tp, threads_of(mesh)
    row = run([*(mpi(a, ranks) if ranks > 1 else []), a.build / "benchmarks/bench_train_step", "--config", work.config,
               "--dtype", dtype, "--dp", dp, "--cp", cp, "--tp", tp, "--threads", threads, "--steps", a.steps,
               "--warmup", a.warmup, "--json"], threads)
    return {"tokens_per_s": row["tokens_per_s"], "share": row["share_of_peak"]["median"],
            "peak": row["gemm_peak_gflops"]["median"], "mib": row["memory_above_start_mib"],
            "faults": row["minor_faults_per_step"], "start": seconds_to_first_step(a, work, dtype, mesh)}


def run_peer(a, work, dtype, mesh, arguments, environment):
    threads = threads_of(mesh)
    row = run([a.peer_python, a.peers / "train_peer.py", *arguments, "--ranks", int(np.prod(MESHES[mesh])),
               "--areal-dir", a.areal_dir, "--model", work.config, "--dtype", dtype, "--threads", threads,
               "--steps", a.steps, "--warmup", a.warmup, "--json"], threads, environment)
    return {"tokens_per_s": row["tokens_per_s"], "faults": max(row["minor_faults_per_step"]),
            "mib": max(peak - start for peak, start in zip(row["peak_rss_mib"], row["rss_after_import_mib"])),
            "start": row["seconds_to_first_step"] - row["step_s"]["median"]}


def peers_of(a, mesh):
    return [peer for peer in PEERS[mesh] if a.peers and (a.areal_dir or peer[0] != AREAL)]


def run_training(a, work, dtype, mesh):
    """Results of each contender, one per round."""
    results = {}
    for _ in range(a.rounds):
        results.setdefault("Archon", []).append(run_archon(a, work, dtype, mesh))
        for name, arguments, environment in peers_of(a, mesh):
            results.setdefault(name, []).append(run_peer(a, work, dtype, mesh, arguments, environment))
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
              f"| {ratio['median']:.2f} | {ratio['min']:.2f} to {ratio['max']:.2f} |", flush=True)


def print_training_head():
    print("\n| model | type | mesh | program | tokens/s (spread) | Archon / this (spread) | share of GEMM peak "
          "| MiB per rank above start | start, s |")
    print("|---|---|---|---|---|---|---|---|---|")


def print_training(model, dtype, mesh, results):
    """Archon's share of the peak, and its speed over each peer's of the same round."""
    ours = [row["tokens_per_s"] for row in results["Archon"]]
    for name, rows in results.items():
        rates = [row["tokens_per_s"] for row in rows]
        own = name == "Archon"
        ratio = share = ""
        if own:
            peak = statistics.median(row["peak"] for row in rows)
            share = f"{spread([row['share'] for row in rows], 2)} of {peak:.0f} GFLOP/s"
        else:
            ratio = spread([a / b for a, b in zip(ours, rates)], 2)
        print(f"| {model} | {dtype} | {mesh} | {name} | {spread(rates, 0)} | {ratio} | {share} "
              f"| {max(row['mib'] for row in rows):.0f} | {statistics.median(row['start'] for row in rows):.1f} |",
              flush=True)


def main():
    a = parse_arguments()
    if not a.peers:
        print("no --peers: the training step is not compared with others")
    report = {"cores": cores(), "ulysses": {}, "training": {}}
    for ranks in a.ulysses:
        report["ulysses"][ranks] = run_ulysses(a, ranks)
        print_ulysses(report["ulysses"][ranks], ranks)
    print_training_head()
    with tempfile.TemporaryDirectory(prefix="archon-benchmark-") as folder:
        for work in [Work(a, pathlib.Path(folder), model) for model in a.models]:
            for dtype in a.dtypes:
                for mesh in a.meshes:
                    results = run_training(a, work, dtype, mesh)
                    report["training"][f"{work.name} {dtype} {mesh}"] = results
                    print_training(work.name, dtype, mesh, results)
    a.json.parent.mkdir(parents=True, exist_ok=True)
    a.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwrote {a.json}")


if __name__ == "__main__":
    main()
