#!/usr/bin/env python3
"""Shows how much of the communication of sharding hides behind computation.

    benchmarks/overlap.py [--build build/release] [--rates 2gbit 1gbit] [--rounds 3] [--steps 3]
                          [--ranks 2] [--dtype bfloat16] [--json build/overlap.json]

Between ranks of one machine a transfer is a copy, which takes a core that computes. So this enters
a network namespace of its own, limits the rate of its loopback device (tc, tbf), has MPI use TCP
only, and runs the training step with fully sharded parameters and one computing thread a rank, in
turns: communication while computing, and one after the other.

    hidden = 1 - (seconds in collectives, overlapped) / (the same, one after the other)

The processor time of the progress thread, beside the length of the step, shows that it does not
spin. Needs root, iproute2 and util-linux's unshare; changes nothing outside the namespace.
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
FIGURES = ("step_s", "communication_s", "progress_thread_cpu_s")


def parse_arguments():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="build folder")
    p.add_argument("--rates", nargs="+", default=["2gbit", "1gbit"], help="of the link, as tc writes them")
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--tokens", type=int, default=2048, help="per rank and step")
    p.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=3)
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


def limit_loopback(rate):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["tc", "qdisc", "replace", "dev", "lo", "root", "tbf", "rate", rate, "burst", "1mb",
                    "latency", "50ms"], check=True)


def measure(a, overlap):
    """Medians of one run's steps."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run(
            [a.mpiexec, "--oversubscribe", "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl", "tcp,self",
             "--mca", "btl_tcp_if_include", "lo", "-n", str(a.ranks), a.build / "benchmarks/bench_train_step",
             "--dtype", a.dtype, "--threads", "1", "--tokens", str(a.tokens), "--steps", str(a.steps),
             "--warmup", "1", "--overlap", overlap, "--json", out.name],
            check=True, stdout=subprocess.DEVNULL)
        row = json.loads(pathlib.Path(out.name).read_text())
    return {name: row[name]["median"] for name in FIGURES}


def median(runs, figure):
    return statistics.median(run[figure] for run in runs)


def main():
    a = parse_arguments()
    if INSIDE not in os.environ:
        enter_namespace()
    results = []
    print(f"{a.ranks} ranks of one thread, {a.dtype}, {a.tokens} tokens each; medians of {a.rounds} rounds, seconds\n"
          "link     overlap  step   in collectives  progress thread's processor time", flush=True)
    for rate in a.rates:
        limit_loopback(rate)
        runs = {"on": [], "off": []}
        for _ in range(a.rounds):
            for overlap in runs:
                runs[overlap].append(measure(a, overlap))
        for overlap, each in runs.items():
            step, waits, cpu = (median(each, figure) for figure in FIGURES)
            print(f"{rate:<8} {overlap:<8} {step:.3f}  {waits:<14.3f}  {cpu:.3f}")
        hidden = 1 - median(runs["on"], "communication_s") / median(runs["off"], "communication_s")
        gain = median(runs["off"], "step_s") / median(runs["on"], "step_s")
        print(f"         hidden: {hidden:.0%} of the communication; step {gain:.2f} times as fast", flush=True)
        results.append({"rate": rate, "runs": runs, "hidden": hidden, "gain": gain})
    settings = {name: str(value) for name, value in vars(a).items()}
    a.json.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
