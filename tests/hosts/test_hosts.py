"""Training on two hosts that are connected by TCP; what a wrong interface and a lost link look like.
tests/hosts/run.sh gives it a network of its own."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from two_hosts import DEPENDENT, TwoHosts

SOURCE = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("ARCHON_TEST_BINARY_DIR", SOURCE / "build" / "release"))
ARCHON = BUILD / "bin" / "archon"
GOLDEN = SOURCE / "tests" / "golden" / "q3_tiny"
PATIENCE = 60  # seconds for anything to happen


class Hosts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="archon-hosts-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.hosts = TwoHosts(self.folder)
        self.addCleanup(self.hosts.close)
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("OMPI_", "PMIX_", "ARCHON_", "SLURM_"))}
        # Each host believes that all cores of the machine are its own.
        self.environment = dict(kept, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
                                OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

    def start(self, command):
        self.text = self.folder / "text"
        with open(self.text, "w") as text:
            return subprocess.Popen([str(word) for word in (*DEPENDENT, *command)],
                                    env=self.environment, stdout=text, stderr=subprocess.STDOUT)

    def wait(self, condition, what):
        limit = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), limit, f"{what}: not in {PATIENCE} s\n{self.said()}")
            time.sleep(0.05)

    def said(self):
        return self.text.read_text()

    def finish(self, job):
        """What it said."""
        self.wait(lambda: job.poll() is not None, "the end")
        return self.said()

    def complete(self, command):
        job = self.start(command)
        text = self.finish(job)
        self.assertEqual(job.returncode, 0, text)
        return text

    def train(self, output, steps, timeout=60):
        return [ARCHON, "train", "--model", GOLDEN / "model", "--data", GOLDEN / "batch.h5",
                "--output", self.folder / output, "--batch-sequences", "2", "--lr", "1e-4",
                "--tp", "2", "--collective-timeout", str(timeout), "--save-every", "5",
                "--keep", "2", "--steps", str(steps)]

    def rows(self, output):
        text = (self.folder / output / "metrics.jsonl").read_text()
        return [[row[key] for key in ("step", "loss", "grad_norm")]
                for row in map(json.loads, text.splitlines())]

    def check_same_run(self, one, other):
        self.assertEqual(self.rows(one), self.rows(other))
        weights = [(self.folder / run / "hf" / "model.safetensors").read_bytes()
                   for run in (one, other)]
        self.assertEqual(*map(hash, weights))

    def latest_step(self, output):
        try:
            name = (self.folder / output / "checkpoints" / "latest").read_text()
        except FileNotFoundError:
            return 0
        return int(name.strip().removeprefix("step-"))

    def test_two_hosts_compute_what_one_computes(self):
        text = self.complete([*self.hosts.launch(), ARCHON, "doctor"])
        self.assertIn("2 on 2 hosts (host1: 1, host2: 1)", text)
        self.complete([*self.hosts.launch(), *self.train("two", 20)])
        self.complete([*self.hosts.enter("host1"), "mpiexec", "--oversubscribe", "-n", "2",
                       *self.train("one", 20)])
        self.check_same_run("two", "one")

    def test_an_interface_that_leads_nowhere_ends_the_job(self):
        job = self.start([*self.hosts.launch("eth1"), *self.train("run", 5, timeout=5)])
        text = self.finish(job)
        self.assertNotEqual(job.returncode, 0, text)
        self.assertIn("a collective waited longer than --collective-timeout 5 s", text)
        self.assertIn("their hosts must reach each other", text)

    def test_a_folder_that_the_hosts_do_not_share_is_told(self):
        output = self.folder / "run"
        hidden = ["unshare", "--mount", "sh", "-c",
                  f'test "$(hostname)" = host1 || mount -t tmpfs none {output}; exec "$@"', "sh"]
        for layout in ("shards", "single"):
            with self.subTest(layout):
                output.mkdir()
                job = self.start([*self.hosts.launch(), *hidden, *self.train("run", 5),
                                  "--checkpoint-layout", layout])
                text = self.finish(job)
                self.assertEqual(job.returncode, 3, text)
                self.assertRegex(text, r"rank 1: cannot open .*\(do all hosts share this folder\?\)")
                shutil.rmtree(output)

    def start_and_lose_link(self, timeout):
        job = self.start([*self.hosts.launch(), *self.train("run", 10**6, timeout)])
        self.wait(lambda: self.latest_step("run") >= 10, "a checkpoint")
        self.hosts.set_link("host2", "down")
        return job

    def test_a_lost_link_ends_the_job_which_can_go_on(self):
        job = self.start_and_lose_link(timeout=60)
        begin = time.monotonic()
        text = self.finish(job)
        self.assertNotEqual(job.returncode, 0, text)
        self.assertLess(time.monotonic() - begin, 40)
        self.assertIn("lost communication with a remote daemon", text)
        # Over world if the link is lost while the ranks still agree on the checkpoint just named.
        self.assertRegex(text, r"archon\[0\]: ended by SIGTERM: inside \w+ over (tp|world)")
        self.hosts.end_processes()
        self.hosts.set_link("host2", "up")
        saved = self.latest_step("run")
        text = self.complete([*self.hosts.launch(), *self.train("run", saved + 5)])
        self.assertIn(f"goes on after step {saved} of", text)
        self.complete([*self.hosts.launch(), *self.train("whole", saved + 5)])
        self.check_same_run("run", "whole")

    def test_ranks_do_not_wait_for_a_launcher_that_notices_nothing(self):
        job = self.start_and_lose_link(timeout=3)
        self.wait(lambda: self.hosts.count(ARCHON.resolve()) == 0, "the end of the ranks")
        self.assertIn("a collective waited longer than --collective-timeout 3 s: inside",
                      self.said())
        self.hosts.end_processes()
        self.finish(job)


if __name__ == "__main__":
    unittest.main()
