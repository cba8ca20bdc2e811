"""The jobs of job_scripts/ in a real Slurm: submitted, warned, requeued, resumed, finished.
tests/slurm/run.sh sets one up."""

import json
import re
import sys
import unittest

import h5py
from slurm_case import ARCHON, BUILD, GOLDEN, SlurmCase

ENDLESS = 10**6  # steps
JUDGE = """\
import json, sys
for line in sys.stdin:
    print(sum(json.loads(line)["completion"]) % 7)
"""


class TimeLimits(SlurmCase):
    """Real ones, of a minute, of two jobs at the same time, on a core each. One is cut off: the
    signal in place of the warning is one that nobody minds."""

    JOBS = {"warned": ("B:USR1@20", "30"), "cut off": ("B:URG@20", "0.1")}

    def test_a_run_goes_on_in_the_next_start(self):
        jobs = {}
        for name, (signal, minutes) in self.JOBS.items():
            self.set_steps(ENDLESS, name)
            jobs[name] = self.submit("train.sbatch", *self.training(name),
                                     limits=("--time=1", f"--signal={signal}"),
                                     OUTPUT=str(self.output(name)), SAVE_MINUTES=minutes)
        for name, job in jobs.items():
            self.end_after_requeue(job, name)
        for name, job in jobs.items():
            output, whole = self.output(name), self.output(f"{name}, whole")
            self.check_completed(job, restarts=1)
            self.assertRegex(self.log(job, output), r"start 2: (.*\n)+.*goes on after step \d+ of")
            self.call(self.scripts / "train_mpiexec.sh", *self.training(name), THREADS="1",
                      OUTPUT=str(whole))
            self.check_same_run(output, whole)


class Train(SlurmCase):
    def warn_and_finish(self, ready, **environment):
        """A run of two ranks that is warned when it is ready, and ends in the next start."""
        self.set_steps(ENDLESS)
        job = self.submit("train.sbatch", *self.training(), tasks=2, **environment)
        self.wait(ready, "what the warning waits for")
        steps = len(self.steps())
        self.warn(job)
        last = self.end_after_requeue(job)
        self.check_completed(job, restarts=1)
        self.assertEqual([row["step"] for row in self.steps()], list(range(1, last + 1)))
        self.assertEqual(self.log(job).count("threads per rank: 1"), 2)
        return steps

    def test_a_warning_under_srun_before_the_first_step_waits_for_it(self):
        steps = self.warn_and_finish(lambda: any(self.output().glob("logs/*.log")))
        self.assertEqual(steps, 0)

    def test_a_warning_under_mpiexec(self):
        steps = self.warn_and_finish(lambda: len(self.steps()) > 2, LAUNCHER="mpiexec")
        self.assertGreater(steps, 2)

    def test_an_error_ends_the_job(self):
        self.check_failed(self.submit("train.sbatch", "--steps", "many"), code=2)
        self.assertIn("--steps", self.logs())
        diverges = ("--lr", "1e30", "--steps", "50", "--max-skipped-steps", "2")
        self.check_failed(self.submit("train.sbatch", *diverges, OUTPUT=str(self.output("nan"))), code=3)
        self.assertIn("archon train failed with exit code 3", self.logs())

    def test_what_is_cancelled_is_not_requeued(self):
        self.set_steps(ENDLESS)
        job = self.submit("train.sbatch", *self.training())
        self.wait_for_steps()
        self.call("scancel", job)
        facts = self.finished(job)
        self.assertEqual((facts["JobState"], facts["Restarts"]), ("CANCELLED", "0"), self.logs())

    def test_settings_that_are_absent_are_named(self):
        self.check_failed(self.submit("train.sbatch", DATA=""), code=2)
        self.assertIn("error: DATA is not set", self.logs())

    def test_a_slurm_without_pmix_is_named(self):
        """An srun that offers what a Slurm built without PMIx does."""
        programs = self.folder / "programs"
        programs.mkdir()
        (programs / "srun").write_text("#!/bin/sh\nprintf 'MPI plugin types are...\\n\\tpmi2\\n'\n")
        (programs / "srun").chmod(0o755)
        path = f"{programs}:{self.environment['PATH']}"
        job = self.submit("train.sbatch", "--steps", "2", PATH=path)
        self.check_failed(job, code=2)
        self.assertIn("this Slurm has no PMIx", self.logs())
        self.assertIn("LAUNCHER=mpiexec", self.logs())
        job = self.submit("train.sbatch", "--steps", "2", PATH=path, LAUNCHER="mpiexec")
        self.check_completed(job, restarts=0)


class Others(SlurmCase):
    locale = "C.UTF-8"

    def test_evaluation_writes_what_the_command_prints(self):
        result = self.output() / "eval.json"
        job = self.submit("eval.sbatch", "--micro-batch-tokens", "512", tasks=2, RESULT=str(result))
        self.check_completed(job, restarts=0)
        alone = json.loads(self.call(ARCHON, "eval", "--model", GOLDEN / "model", "--data",
                                     self.data, "--log-level", "error"))
        self.assertAlmostEqual(json.loads(result.read_text())["loss"], alone["loss"], places=5)

    def test_an_evaluation_that_gets_no_further_is_not_requeued(self):
        with h5py.File(self.data, "a") as file:
            tokens = file["input_ids"][:].tolist() * 100
            del file["input_ids"], file["cu_seqlens"]
            file["input_ids"] = tokens
            file["cu_seqlens"] = range(0, len(tokens) + 1, 64)
        job = self.submit("eval.sbatch", RESULT=str(self.output() / "eval.json"))
        self.wait(lambda: any(self.output().glob("logs/*.log")), "the start")
        self.warn(job)
        self.check_failed(job, code=3)
        self.assertIn("another start would not get further", self.logs())
        self.assertFalse((self.output() / "eval.json").exists())

    def test_a_sweep_runs_each_line_and_requeues_only_the_warned_one(self):
        self.output().mkdir()
        self.set_steps(ENDLESS, "the run/high")
        table = self.folder / "table"
        table.write_text("# name options\nlow --lr 1e-4 --steps 3\n\n"
                         f"high --lr 1e-3 --config '{self.output()}/high.settings'\n")
        array = self.submit("array_sweep.sbatch", limits=("--array=1-3",), TABLE=str(table))
        low, high, absent = (f"{array}_{task}" for task in (1, 2, 3))
        self.wait_for_steps(self.output() / "high")
        self.warn(high)
        last = self.end_after_requeue(high, "the run/high")
        self.check_completed(high, restarts=1)
        self.check_completed(low, restarts=0)
        self.check_failed(absent, code=2)
        self.assertIn("submit with --array=1-2", self.logs())
        for name, steps, lr in (("low", 3, 1e-4), ("high", last, 1e-3)):
            rows = self.steps(self.output() / name)
            self.assertEqual((len(rows), rows[-1]["lr"]), (steps, lr))

    def test_reinforcement_learning_goes_on_where_it_was(self):
        prompts = self.folder / "prompts"
        prompts.mkdir()
        for number in range(2):
            with h5py.File(prompts / f"{number}.h5", "w") as file:
                file["input_ids"] = [(7 * number + 3 * token) % 256 for token in range(20)]
                file["cu_seqlens"] = range(0, 21, 5)
        judge = self.folder / "judge.py"
        judge.write_text(JUDGE)
        options = ("--batch-sequences", "2", "--epochs", "3", "--lr", "1e-3")
        settings = {"PROMPTS": str(prompts), "GROUP_SIZE": "4", "MAX_NEW_TOKENS": "20",
                    "REWARD_COMMAND": f"'{sys.executable}' '{judge}'"}
        job = self.submit("grpo.sbatch", *options, **settings)
        self.wait_for_steps()
        self.warn(job)
        self.check_completed(job, restarts=1)
        whole = self.output("whole")
        self.call(self.scripts / "grpo_mpiexec.sh", *options, THREADS="1", OUTPUT=str(whole),
                  **settings)
        self.check_same_run(self.output(), whole)
        self.assertEqual(len(self.steps()), 48)
        for number in range(2):
            answers = []
            for run in (self.output(), whole):
                with h5py.File(run / "rollouts" / f"{number}.h5", "r") as file:
                    answers.append((file["input_ids"][:].tolist(), file["rewards"][:].tolist()))
            self.assertEqual(*answers)


class Direct(SlurmCase):
    """srun of the program itself."""

    def srun(self, *command):
        return self.call("srun", "--mpi=pmix", *command)

    def test_threads_are_those_of_the_cores_that_a_rank_is_bound_to(self):
        for tasks, cores, threads in ((2, 1, 1), (1, 2, 2)):
            text = self.srun(f"--ntasks={tasks}", f"--cpus-per-task={cores}", "--cpu-bind=cores",
                             ARCHON, "doctor")
            self.assertRegex(text, rf"{cores} cores?, shared by 1 rank; {threads} threads? per rank")
            self.assertIn(f"all_reduce over {tasks} rank", text)

    def test_ranks_that_share_two_cores_have_one_thread_each(self):
        text = self.srun("--ntasks=2", "--cpu-bind=none", ARCHON, "doctor")
        self.assertIn("2 cores, shared by 2 ranks; 1 thread per rank", text)

    def test_weights_go_to_a_program_of_another_role(self):
        received = self.folder / "received"
        received.mkdir()
        (self.folder / "roles").write_text(
            f'0 {ARCHON} train --model {GOLDEN}/model --data {GOLDEN}/batch.h5 --steps 2 '
            f'--output run --push-weights engine\n'
            f'1 {BUILD}/tests/bin/consumer_program engine received all\n')
        text = self.srun("--ntasks=2", "--multi-prog", "roles")
        self.assertEqual(re.findall(r"consumer 1: version (\d)", text), ["0", "1", "2"])


class Twins(SlurmCase):
    """The scripts under mpiexec, without Slurm, or by hand in an allocation."""

    def test_a_signal_ends_a_run_that_goes_on_when_started_again(self):
        self.set_steps(ENDLESS)
        script = [self.scripts / "train_mpiexec.sh", *self.training()]
        timeout = ["timeout", "--preserve-status", "--signal=USR1", "8"]
        self.call(*timeout, *script, code=143)
        last = self.latest_step() + 2
        self.assertGreater(last, 2)
        self.set_steps(last)
        self.assertIn("done", self.call(*script))
        self.assertEqual(len(self.steps()), last)

    def test_an_allocation_is_not_requeued(self):
        self.set_steps(ENDLESS)
        for signal in ("USR1", "TERM"):
            text = self.call("salloc", "--ntasks=1", "timeout", "--foreground", "--preserve-status",
                             f"--signal={signal}", "8", self.scripts / "train_mpiexec.sh",
                             *self.training(), code=143)
            self.assertIn("the same command goes on from there", text)

    def test_an_error_is_shown_without_the_banner_of_the_launcher(self):
        text = self.call(self.scripts / "train_mpiexec.sh", "--steps", "2", DATA="nope.h5",
                         RANKS="2", code=2)
        said = text.partition("archon train failed with exit code 2\n")[2]
        self.assertRegex(said, r"^ +archon\[0\]: error: .*nope\.h5.*\n +see .*\n$")

    def test_a_sweep_is_run_line_by_line(self):
        (self.folder / "table").write_text("one --steps 1\ntwo --steps 2\n")
        self.call(self.scripts / "array_sweep_mpiexec.sh", TABLE="table")
        self.assertEqual([len(self.steps(self.output() / name)) for name in ("one", "two")], [1, 2])
        (self.folder / "table").write_text("one --steps 1\none --steps 2\n")
        text = self.call(self.scripts / "array_sweep_mpiexec.sh", TABLE="table", code=2)
        self.assertIn("several runs named one", text)


if __name__ == "__main__":
    unittest.main()
