#!/usr/bin/env python3
"""Shows what communicating while computing gains, on a link that is slow on purpose.

    benchmarks/overlap.py [--build build/release] [--rate 2gbit] [--rounds 3]
                          [--ranks 2] [--dtype bfloat16] [--json build/overlap.json]

Between ranks of one machine a transfer is a copy, which takes a core that computes. So this
starts a network namespace of its own, limits the rate of its loopback device (tc, tbf), has MPI use TCP only, and runs the training step with fully sharded parameters, one thread per rank, in
turns: overlapped, one after the other, and overlapped without sharding's gathers (--shard
none) for comparison. Needs root, iproute2 and util-linux's unshare; changes nothing outside.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
INSIDE = "ARCHON_OVERLAP_NAMESPACE"


def parse_arguments():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="build folder")
    p.add_argument("--rate", default="2gbit", help="of the link, as tc writes it")
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--tokens", type=int, default=2048, help="per rank and step")
    p.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--mpiexec", default="mpiexec")
    p.add_argument("--json", type=pathlib.Path, default=ROOT / "build/overlap.json")
    a = p.parse_args()
    for tool in ("unshare", "ip", "tc", a.mpiexec):
        if shutil.which(tool) is None:
            p.error(f"{tool} is not here; install iproute2, util-linux and an MPI")
    if os.geteuid() != 0:
        p.error("a network namespace with a slow link needs root")
    return a


def enter_namespace():
    """Starts this program again, alone with a loopback device."""
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def slow_loopback(a):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", a.rate, "burst", "1mb",
                    "latency", "50ms"], check=True)


def step_seconds(a, extra):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run(
            [a.mpiexec, "--oversubscribe", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo",
             "--mca", "pml", "ob1", "-n", str(a.ranks), a.build / "benchmarks/bench_train_step", "--dtype", a.dtype,
             "--threads", "1", "--tokens", str(a.tokens), "--steps", "3", "--warmup", "1", *extra, "--json", out.name],
            check=True, stdout=subprocess.DEVNULL)
        return json.loads(pathlib.Path(out.name).read_text())["step_s"]["median"]


def main():
    a = parse_arguments()
    if INSIDE not in os.environ:
        enter_namespace()
    ways = {"overlapped": ["--overlap", "on"], "one after the other": ["--overlap", "off"],
            "not sharded": ["--shard", "none"]}
    times = {name: [] for name in ways}
    slow_loopback(a)
    for _ in range(a.rounds):
        for name, extra in ways.items():
            times[name].append(step_seconds(a, extra))
    print(f"{a.ranks} ranks, {a.dtype}, link of {a.rate}; seconds per step (spread)")
    for name, seconds in times.items():
        print(f"  {name:<20} {statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})")
    a.json.write_text(json.dumps({"settings": {k: str(v) for k, v in vars(a).items()}, "seconds": times}, indent=1))


if __name__ == "__main__":
    main()
