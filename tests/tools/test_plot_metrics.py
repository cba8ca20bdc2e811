"""Tests of tools/plot_metrics.py through its command line."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import matplotlib.image
import numpy as np

TOOL = Path(__file__).parents[2] / "tools" / "plot_metrics.py"


class PlotMetrics(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="with blank ")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.output = self.folder / "plots" / "loss.png"

    def write_run(self, name, loss, **columns):
        (self.folder / name).mkdir()
        with h5py.File(self.folder / name / "metrics.h5", "w") as file:
            file["loss"] = np.asarray(loss, dtype=float)
            file["step"] = np.arange(1, len(loss) + 1)
            for column, values in columns.items():
                file[column] = values
        return self.folder / name

    def plot(self, *arguments):
        return subprocess.run(
            [sys.executable, TOOL, *map(str, arguments), "--output", self.output],
            capture_output=True, text=True,
        )

    def picture(self, *arguments):
        result = self.plot(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return matplotlib.image.imread(self.output)

    def test_draws_what_is_asked_for(self):
        first = self.write_run("first", np.linspace(5, 1, 50), grad_norm=np.ones(50))
        second = self.write_run("second", np.linspace(5, 2, 30), grad_norm=np.ones(30))
        alone = self.picture(first)
        self.assertGreater(alone.std(), 0.01)
        both = self.picture(first, f"other={second / 'metrics.h5'}")
        self.assertFalse(np.array_equal(alone, both))
        self.picture(self.write_run("lr=1e-3", [2, 1]), f"label={self.folder / 'lr=1e-3'}")
        marked = self.picture(first, "--reference", "unigram entropy=6.1")
        self.assertFalse(np.array_equal(alone, marked))
        taller = self.picture(first, "--column", "loss", "--column", "grad_norm", "--smooth", 5)
        self.assertGreater(taller.shape[0], alone.shape[0])

    def test_a_step_that_is_not_finite_leaves_the_others(self):
        loss = np.linspace(5, 1, 50)
        loss[10] = np.nan
        self.picture(self.write_run("run", loss), "--smooth", 3)

    def test_values_between_steps_without_one_are_drawn(self):
        nothing, now_and_then, one = (np.full(50, np.nan) for _ in range(3))
        now_and_then[9::10] = np.linspace(5, 1, 5)
        one[9] = 5
        run = self.write_run("run", np.ones(50), nothing=nothing, some=now_and_then, one=one)
        coloured = lambda picture: (np.ptp(picture[..., :3], axis=2) > 0.3).sum()
        in_key = coloured(self.picture(run, "--column", "nothing"))
        self.assertGreater(coloured(self.picture(run, "--column", "some", "--smooth", 2)), 2 * in_key)
        self.assertGreater(coloured(self.picture(run, "--column", "one")), in_key)

    def write_cost(self, name, steps, compute):
        axes = ("tp", "cp", "dp", "shard", "model_parallel", "world")
        return self.write_run(
            name, np.linspace(5, 1, steps),
            compute_seconds=np.full(steps, compute), communication_seconds=np.full(steps, 0.5),
            data_seconds=np.full(steps, 0.1), io_seconds=np.zeros(steps),
            gemm_peak_share=np.full(steps, 0.4), peak_memory_bytes=np.full(steps, 2**31),
            **{f"{axis}_bytes": np.full(steps, 2**20 if axis in ("tp", "dp") else 0)
               for axis in axes},
        )

    def test_stacks_time_and_traffic(self):
        panels = []
        for name, steps, compute in (("slow", 20, 1.5), ("fast", 20, 0.5), ("once", 1, 1.5)):
            panels.append(self.picture(self.write_cost(name, steps, compute), "--column", "time"))
            self.assertGreater(panels[-1].std(), 0.01)
        self.assertFalse(np.array_equal(panels[0], panels[1]))
        self.assertFalse(np.array_equal(panels[0], panels[2]))
        several = self.picture(
            self.folder / "slow", "--column", "time", "--column", "traffic",
            "--column", "gemm_peak_share", "--column", "peak_memory_bytes", "--smooth", 3,
        )
        self.assertGreater(several.shape[0], panels[0].shape[0])

    def test_refuses_what_it_cannot_draw(self):
        run = self.write_run("run", [3.0, 2.0], short=[1.0])
        text = self.folder / "text.h5"
        text.write_text("no HDF5")
        empty = self.write_run("empty", [])
        for arguments, pattern in [
            ([self.folder / "absent"], "cannot be read as HDF5"),
            ([text], "cannot be read as HDF5"),
            ([empty], "holds no steps"),
            ([run, "--column", "speed"], "no column 'speed'; it has loss, short, step"),
            ([run, "--column", "short"], "has 1 rows"),
            ([run, "--smooth", "0"], "at least 1"),
            ([run, "--column", "time"], "no column 'compute_seconds'"),
            ([run, run, "--column", "time"], "time shows one run, 2 were given"),
            ([run, "--reference", "entropy=high"], "invalid"),
        ]:
            with self.subTest(arguments):
                result = self.plot(*arguments)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertRegex(result.stderr, pattern)
                self.assertNotIn("Traceback", result.stderr)
                self.assertFalse(self.output.exists())

    def test_refuses_kinds_of_pictures_that_there_are_not(self):
        self.output = self.folder / "loss.text"
        result = self.plot(self.write_run("run", [3.0, 2.0]))
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertRegex(result.stderr, r"^error: '.*loss\.text' cannot be drawn: Format 'text'")


if __name__ == "__main__":
    unittest.main()
