#!/usr/bin/env python3
"""Kills training runs at random instants and checks that nothing is lost but the last interval.

A tiny model is trained with a checkpoint every few steps. Again and again one rank, or all of them
and their launcher, get SIGKILL: half of the time while a checkpoint is being written, else at any
moment from the start on. After each crash every folder with a checkpoint's name must be sound
(archon inspect --verify), and the newest no older than one interval (two, where saves are
asynchronous and the one between may be under way). The same command then goes on, from that
checkpoint. In the end losses and weights must be those of a run that was never interrupted, bit by
bit.
"""

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
INTERVAL = 3  # steps between checkpoints
LAST_STEPS = 5  # after the last crash of a run
PATIENCE = 120  # seconds for anything to happen
SCENARIOS = (
    ("one rank", 1, ()),
    ("dp 2", 2, ()),
    ("dp 2, asynchronous", 2, ("--checkpoint-async", "on")),
    ("tp 2, asynchronous", 2, ("--tp", "2", "--checkpoint-async", "on")),
    ("dp 2, one file", 2, ("--checkpoint-layout", "single")),
)
BEGIN, END = "<!-- campaign -->\n", "<!-- end of campaign -->\n"


class Broken(Exception):
    """A promise that a crash broke."""


def demand(condition, message):
    if not condition:
        raise Broken(message)


@dataclass
class Tally:
    crashes: int = 0
    of_one: int = 0  # one rank was killed; else all and the launcher
    while_saving: int = 0  # an unfinished checkpoint was left behind
    steps: int = 0
    most_lost: int = 0  # steps that had to be run again
    verified: int = 0  # checkpoints that were read and compared with their sums


class Run:
    def __init__(self, build, folder, shared_memory, ranks, options):
        self.archon = str(build / "bin" / "archon")
        self.output = folder / "run"
        self.folder = folder
        self.ranks = ranks
        self.options = options
        self.job = None
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(("OMPI_", "PMIX_", "ARCHON_"))}
        self.environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                                OMP_NUM_THREADS="1", TMPDIR=str(folder),
                                OMPI_MCA_btl_vader_backing_directory=str(shared_memory))

    def command(self, output, steps, saving):
        golden = SOURCE / "tests" / "golden" / "q3_tiny"
        launch = [os.environ.get("ARCHON_MPIEXEC", "mpiexec"), "--oversubscribe"]
        save = ["--save-every", str(INTERVAL), "--keep", "2", *self.options] if saving else [
            *(self.options[:2] if "--tp" in self.options else ())]
        return [*launch, "-n", str(self.ranks), self.archon, "train",
                "--model", str(golden / "model"), "--data", str(golden / "batch.h5"),
                "--output", str(output), "--batch-sequences", "2", "--lr", "1e-4",
                "--steps", str(steps), *save]

    def start(self):
        self.log = self.folder / "log"
        with open(self.log, "wb") as log:
            self.job = subprocess.Popen(self.command(self.output, 10**9, True), stderr=log,
                                        env=self.environment)

    def finish(self, output, steps, saving):
        done = subprocess.run(self.command(output, steps, saving), env=self.environment,
                              capture_output=True, text=True, timeout=10 * PATIENCE)
        demand(done.returncode == 0, f"exit code {done.returncode}:\n{done.stderr}")
        return done.stderr

    def processes(self):
        """The launcher and its ranks."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if entry.name.isdigit() and str(self.output).encode() in words:
                found.append((int(entry.name), words[0] == self.archon.encode()))
        return found

    def kill(self, one, dice):
        """SIGKILL for one rank, or for all and the launcher; False if there was none to kill."""
        processes = self.processes()
        ranks = [pid for pid, is_rank in processes if is_rank]
        if not ranks:
            return False
        for pid in [dice.choice(ranks)] if one else [pid for pid, _ in processes]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            self.job.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Broken("the job did not end after a rank was killed") from None
        limit = time.monotonic() + PATIENCE
        while self.processes():  # orphans that were killed are being cleaned up
            demand(time.monotonic() < limit, "a rank lives on")
            time.sleep(0.01)
        return True

    def checkpoints(self):
        return self.output / "checkpoints"

    def names(self):
        try:
            return sorted(os.listdir(self.checkpoints()))
        except FileNotFoundError:
            return []

    def saving(self):
        return any(name.startswith(".step-") for name in self.names())

    def last_step(self):
        try:
            text = (self.output / "metrics.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return 0
        lines = text.split("\n")[:-1]
        return json.loads(lines[-1])["step"] if lines else 0

    def verify(self, tally):
        """Every checkpoint is sound; the step of the newest."""
        steps = [int(name[5:]) for name in self.names() if name.startswith("step-")]
        for step in steps:
            folder = self.checkpoints() / f"step-{step:08}"
            done = subprocess.run([self.archon, "inspect", "--verify", str(folder)],
                                  env=self.environment, capture_output=True, text=True)
            demand(done.returncode == 0, f"{folder} is not sound:\n{done.stdout}{done.stderr}")
            tally.verified += 1
        return max(steps, default=0)


def wait_for_instant(run, dice):
    """A moment of a save, or any moment."""
    if dice.random() < 0.5:
        limit = time.monotonic() + PATIENCE
        begin = run.last_step() + dice.randint(1, 60)
        while run.last_step() < begin or not run.saving():
            if run.job.poll() is not None or time.monotonic() > limit:
                return
        time.sleep(dice.uniform(0, 0.01))
    else:
        time.sleep(dice.uniform(0.05, 3.0))


def check_crash(run, newest_before, tally):
    """After a crash; the step from which the run has to go on."""
    newest, last = run.verify(tally), run.last_step()
    intervals = 2 if "--checkpoint-async" in run.options else 1
    # Line k of the metrics is written after the save of the interval before was done (begun, if
    # asynchronous: then the one before that was done).
    bound = max(newest_before, ((last - 1) // INTERVAL - (intervals - 1)) * INTERVAL)
    demand(newest >= bound, f"the newest checkpoint is of step {newest}, after {last} steps")
    tally.while_saving += run.saving()
    tally.most_lost = max(tally.most_lost, last - newest)
    return newest


def crash(run, dice, newest, tally):
    one = dice.random() < 0.5
    run.start()
    wait_for_instant(run, dice)
    demand(run.job.poll() is None, f"the run ended by itself:\n{run.log.read_text()}")
    while not run.kill(one, dice):
        demand(run.job.poll() is None, f"the run ended by itself:\n{run.log.read_text()}")
    text = run.log.read_text(errors="replace")
    if "goes on after step" in text:
        demand(f"goes on after step {newest} " in text, f"not from step {newest}:\n{text}")
    tally.crashes += 1
    tally.of_one += one
    return check_crash(run, newest, tally)


def run_scenario(build, ranks, options, crashes, dice, tally):
    # What killed ranks share with each other is removed with the folders.
    with (tempfile.TemporaryDirectory(prefix="archon-crash-") as folder,
          tempfile.TemporaryDirectory(prefix="archon-crash-", dir="/dev/shm") as shared_memory):
        run = Run(build, Path(folder), shared_memory, ranks, options)
        newest = 0
        for _ in range(crashes):
            newest = crash(run, dice, newest, tally)
        steps = newest + LAST_STEPS
        text = run.finish(run.output, steps, True)
        demand(newest == 0 or f"goes on after step {newest} of" in text, text)
        whole = Path(folder) / "whole"
        run.finish(whole, steps, False)
        compare(run.output, whole, steps)
        tally.steps += steps


def compare(output, whole, steps):
    keys = ("step", "loss", "grad_norm", "lr", "tokens", "targets", "skipped")
    rows = [[{key: json.loads(line)[key] for key in keys}
             for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            for folder in (output, whole)]
    demand(len(rows[0]) == steps, f"{len(rows[0])} lines of metrics for {steps} steps")
    for ours, theirs in zip(*rows):
        demand(ours == theirs, f"not as in a run without a crash: {ours} and {theirs}")
    ours, theirs = ((folder / "hf" / "model.safetensors").read_bytes() for folder in (output, whole))
    demand(ours == theirs, "the weights are not those of a run without a crash")


def table(tallies, seed):
    total = sum(tally.crashes for _, tally in tallies)
    lines = [f"{total} crashes on {datetime.date.today()}, seed {seed}, a checkpoint every "
             f"{INTERVAL} steps:", "",
             "| run | crashes | one rank / all | while saving | checkpoints verified | steps | "
             "most steps run again |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {name} | {t.crashes} | {t.of_one} / {t.crashes - t.of_one} | {t.while_saving} | "
              f"{t.verified} | {t.steps} | {t.most_lost} |" for name, t in tallies]
    lines += ["", "Every checkpoint was sound. None was older than one interval, or than two where the "
              "one between was", "still being written (asynchronous). Losses and weights were bitwise "
              "those of runs without a crash.", ""]
    return "\n".join(lines)


def write_report(path, text):
    page = path.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    path.write_text(head + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crashes", type=int, default=200, help="in all [200]")
    parser.add_argument("--crashes-per-run", type=int, default=10,
                        help="before a run is completed and a new one begun [10]")
    parser.add_argument("--seed", type=int, help="of the instants [drawn]")
    parser.add_argument("--build", type=Path,
                        default=os.environ.get("ARCHON_TEST_BINARY_DIR",
                                               SOURCE / "build" / "release"))
    parser.add_argument("--report", type=Path, help="page whose table is to be replaced")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(10**6)
    dice = random.Random(seed)
    tallies = [(name, Tally()) for name, _, _ in SCENARIOS]
    print(f"seed {seed}", flush=True)
    left, turn = arguments.crashes, 0
    while left > 0:
        name, ranks, options = SCENARIOS[turn % len(SCENARIOS)]
        tally = tallies[turn % len(SCENARIOS)][1]
        crashes = min(left, arguments.crashes_per_run)
        try:
            run_scenario(arguments.build.resolve(), ranks, options, crashes, dice, tally)
        except Broken as broken:
            sys.exit(f"{name}: {broken} (seed {seed})")
        left, turn = left - crashes, turn + 1
        print(f"{name}: {tally}", flush=True)
    text = table(tallies, seed)
    print(text)
    if arguments.report:
        write_report(arguments.report, text)


if __name__ == "__main__":
    main()
