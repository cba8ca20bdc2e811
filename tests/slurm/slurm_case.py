"""What the tests of the jobs share: data for them, and talking to Slurm.

The jobs get the surroundings that are easily forgotten: a path with blanks, a home that cannot be
written to, a umask that shuts others out, and the C locale.
"""

import json
import os
import re
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import h5py
import numpy as np

SOURCE = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("ARCHON_TEST_BINARY_DIR", SOURCE / "build" / "release"))
ARCHON = BUILD / "bin" / "archon"
GOLDEN = SOURCE / "tests" / "golden" / "q3_tiny"
SEQUENCES, LENGTH = 64, 64
PATIENCE = 240  # seconds for anything to happen: a time limit of a minute, and what follows


def write_data(path):
    """Packed sequences that take a tenth of a second a step, about."""
    tokens = np.random.default_rng(1).integers(0, 256, SEQUENCES * LENGTH)
    with h5py.File(path, "w") as file:
        file["input_ids"] = tokens.astype(np.int32)
        file["cu_seqlens"] = np.arange(0, tokens.size + 1, LENGTH)


class SlurmCase(unittest.TestCase):
    locale = "C"

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="archon slurm-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "the repository").symlink_to(SOURCE)
        self.scripts = self.folder / "the repository" / "job_scripts"
        self.data = self.folder / "train.h5"
        write_data(self.data)
        self.jobs = []
        self.addCleanup(self.end_jobs)
        self.addCleanup(os.umask, os.umask(0o077))
        self.environment = {
            "PATH": os.environ["PATH"], "SLURM_CONF": os.environ["SLURM_CONF"], "HOME": "/proc",
            "LC_ALL": self.locale, "ARCHON": str(ARCHON), "MODEL": str(GOLDEN / "model"),
            "DATA": str(self.data), "OUTPUT": str(self.output())}

    def end_jobs(self):
        for job in self.jobs:
            subprocess.run(["scancel", "--signal=KILL", "--full", job], capture_output=True)
            subprocess.run(["scancel", job], capture_output=True)
            self.wait(lambda job=job: not self.queue(job))

    def output(self, name="the run"):
        return self.folder / name

    def set_steps(self, steps, name="the run"):
        """The settings file is read at every start, so that a test decides when a run ends."""
        (self.folder / f"{name}.settings").write_text(f"steps = {steps}\n")

    def training(self, name="the run"):
        return ["--config", self.folder / f"{name}.settings", "--batch-sequences", SEQUENCES,
                "--lr", "1e-3"]

    # --- jobs

    def call(self, *command, code=0, **environment):
        done = subprocess.run([str(word) for word in command], cwd=self.folder, text=True,
                              env=dict(self.environment, **environment), capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=PATIENCE)
        self.assertEqual(done.returncode, code, f"{command}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def submit(self, script, *options, limits=(), tasks=1, **environment):
        """The number of the job."""
        job = self.call("sbatch", "--parsable", f"--ntasks={tasks}", "--cpus-per-task=1", *limits,
                        self.scripts / script, *options, **environment).strip()
        self.jobs.append(job)
        return job

    def queue(self, job):
        return subprocess.run(["squeue", "--noheader", f"--jobs={job}"], capture_output=True,
                              text=True).stdout.strip()

    def show(self, job):
        """What Slurm knows of a job, or of a task of an array."""
        text = self.call("scontrol", "show", "job", job)
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def warn(self, job):
        """What Slurm sends by --signal=B:USR1@..."""
        self.call("scancel", "--batch", "--signal=USR1", job)

    def wait(self, condition, what="what was waited for"):
        limit = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), limit, f"not in {PATIENCE} s: {what}")
            time.sleep(0.2)

    def finished(self, job):
        """Waits for the end of a job; what Slurm knows of it."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait(lambda: self.show(job)["JobState"] in ends and not self.queue(job),
                  f"the end of job {job}")
        return self.show(job)

    def check_completed(self, job, restarts):
        facts = self.finished(job)
        self.assertEqual((facts["JobState"], facts["Restarts"]), ("COMPLETED", str(restarts)),
                         self.logs())

    def check_failed(self, job, code):
        facts = self.finished(job)
        self.assertEqual((facts["JobState"], facts["Restarts"], facts["ExitCode"]),
                         ("FAILED", "0", f"{code}:0"), self.logs())

    def logs(self):
        """All that was said, by Slurm, by the scripts and by the program."""
        files = [*self.folder.glob("*.out"), *self.folder.rglob("logs/*.log")]
        return "\n".join(f"--- {file}\n{file.read_text()}" for file in files)

    def log(self, job, output=None):
        [file] = (output or self.output()).glob(f"logs/*-{job}.log")
        return file.read_text()

    # --- runs

    def latest_step(self, output=None):
        try:
            name = ((output or self.output()) / "checkpoints" / "latest").read_text()
        except FileNotFoundError:
            return 0
        return int(name.strip().removeprefix("step-"))

    def steps(self, output=None):
        path = (output or self.output()) / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def end_after_requeue(self, job, name="the run"):
        """Lets the next start of a run be its last one; the run's last step."""
        self.wait(lambda: self.show(job)["Restarts"] == "1", f"the requeue of job {job}")
        last = self.latest_step(self.output(name)) + 2
        self.set_steps(last, name)
        return last

    def wait_for_steps(self, output=None):
        self.wait(lambda: len(self.steps(output)) > 2, "the first steps")

    def check_same_run(self, one, other):
        """Losses and weights, bit by bit."""
        keys = ("step", "loss", "grad_norm")
        rows = [[[row[key] for key in keys] for row in self.steps(run)] for run in (one, other)]
        self.assertEqual(*rows)
        self.assertEqual([row[0] for row in rows[0]], list(range(1, len(rows[0]) + 1)))
        weights = [(run / "hf" / "model.safetensors").read_bytes() for run in (one, other)]
        self.assertEqual(*map(hash, weights))
