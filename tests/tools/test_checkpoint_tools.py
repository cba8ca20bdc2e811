"""Debian's HDF5 tools and h5py see checkpoints of both layouts as one whole model, and archon diff
compares them with each other and with HuggingFace folders."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

SOURCE = Path(os.environ["ARCHON_TEST_SOURCE_DIR"])
ARCHON = Path(os.environ["ARCHON_TEST_BINARY_DIR"]) / "bin" / "archon"
CASE = SOURCE / "tests" / "golden" / "q3_tiny"
STEP = "step-00000002"
MOMENTS = ("/optimizer/exp_avg", "/optimizer/exp_avg_sq")


def run(*command, code=0):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode != code:
        raise AssertionError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def train(output, layout):
    run(os.environ["ARCHON_MPIEXEC"], "--oversubscribe", "-n", 4, ARCHON, "train", "--cp", 2,
        "--tp", 2, "--model", CASE / "model", "--data", CASE / "batch.h5", "--lr", 1e-3, "--steps", 2,
        "--batch-sequences", 0, "--save-every", 2, "--checkpoint-layout", layout, "--output", output)


def safetensors(path):
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    return {name: np.frombuffer(data[begin:], "<f4", int(np.prod(entry["shape"])),
                                entry["data_offsets"][0]).reshape(entry["shape"])
            for name, entry in header.items()}


def datasets(file, group):
    found = {}
    file[group].visititems(
        lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


class CheckpointTools(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="archon-checkpoint-tools-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        for layout in ("shards", "single"):
            train(cls.folder / layout, layout)

    def step(self, layout):
        return self.folder / layout / "checkpoints" / STEP

    def index(self, layout):
        return self.step(layout) / "index.h5"

    def copy(self):
        target = self.folder / f"{self.id().rsplit('.', 1)[1]}"
        shutil.copytree(self.step("shards"), target)
        return target

    def test_the_layouts_are_what_they_are_called(self):
        self.assertEqual(len(list(self.step("shards").glob("shard-*.h5"))), 4)
        self.assertEqual(list(self.step("single").glob("shard-*.h5")), [])

    def test_h5py_reads_the_exported_weights(self):
        for layout in ("shards", "single"):
            weights = safetensors(self.folder / layout / "hf" / "model.safetensors")
            with h5py.File(self.index(layout)) as file:
                self.assertEqual(file.attrs["schema"], "archon.checkpoint")
                parameters = datasets(file, "/parameters")
                self.assertEqual(set(parameters), set(weights))
                for name, dataset in parameters.items():
                    self.assertEqual(dataset.is_virtual, layout == "shards")
                    np.testing.assert_array_equal(dataset[:], weights[name])
                for group in MOMENTS:
                    moments = datasets(file, group)
                    self.assertEqual(set(moments), set(weights))
                    for name, dataset in moments.items():
                        self.assertEqual(dataset.shape, weights[name].shape)
                        self.assertTrue(np.isfinite(dataset[:]).all())
                        self.assertTrue(dataset[:].any(), f"{group}/{name} is zero")

    def test_h5dump_lists_the_tensors_whole(self):
        weights = safetensors(self.folder / "shards" / "hf" / "model.safetensors")
        for layout in ("shards", "single"):
            header = run("h5dump", "-H", "-g", "/parameters", self.index(layout))
            found = re.findall(
                r'DATASET "(\S+)" \{\s*DATATYPE  H5T_IEEE_F32LE\s*DATASPACE  SIMPLE \{ \( ([\d, ]+) \)',
                header)
            self.assertEqual({name: tuple(map(int, shape.split(","))) for name, shape in found},
                             {name: tensor.shape for name, tensor in weights.items()})
            text = run("h5dump", "-m", "%.9g", "-y", "-w", 0, "-d", "/parameters/model.norm.weight",
                       self.index(layout))
            numbers = re.search(r"DATA \{(.*?)\}", text, re.DOTALL)[1].replace(",", " ").split()
            np.testing.assert_array_equal(np.array(numbers, "f4"), weights["model.norm.weight"])

    def test_h5diff_finds_no_difference_between_the_layouts(self):
        for group in ("/parameters", "/optimizer"):
            report = run("h5diff", "-v", self.index("shards"), self.index("single"), group)
            self.assertEqual(set(re.findall(r"(\d+) differences found", report)), {"0"}, report)
            self.assertNotIn("not comparable", report)
            self.assertGreater(report.count("dataset:"), 20, report)

    def test_archon_diff_finds_none_either(self):
        exact = ("--rtol", 0, "--atol", 0)
        shards, single = self.folder / "shards", self.folder / "single"
        report = run(ARCHON, "diff", shards, self.index("single"), *exact)
        self.assertIn("passed: 75 datasets, 75 equal", report)
        latest = shards / "checkpoints" / "latest"
        for a, b in [(latest, single / "hf"), (single / "hf", self.step("shards"))]:
            report = run(ARCHON, "diff", a, b, *exact)
            self.assertIn("passed: 25 datasets, 25 equal", report)
            self.assertIn("optimizer state is left out", report)

    def test_archon_diff_names_the_tensor_that_differs(self):
        folder = self.copy()
        with h5py.File(folder / "shard-00000.h5", "a") as shard:
            shard["optimizer/exp_avg/model.norm.weight"][0] += 1
        report = run(ARCHON, "diff", self.step("shards"), folder, code=1)
        self.assertRegex(report, r"DIFFERS  /optimizer/exp_avg/model\.norm\.weight +1\.000e\+00")
        self.assertIn("75 datasets, 74 equal", report)

    def test_archon_diff_refuses_what_lacks_a_part(self):
        folder = self.copy()
        with h5py.File(folder / "shard-00001.h5", "a") as shard:
            name = next(iter(shard["parameters"]))
            del shard[f"parameters/{name}"]
        (folder / "shard-00002.h5").unlink()
        for path in (folder, folder / "index.h5"):
            self.assertIn("shard-00002.h5", run(ARCHON, "diff", path, path, code=2))
        report = run(ARCHON, "diff", folder / "index.h5", folder / "index.h5", code=2)
        self.assertIn(f"/parameters/{name} of shard-00001.h5", report)


if __name__ == "__main__":
    unittest.main()
