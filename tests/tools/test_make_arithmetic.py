"""Tests of tools/make_arithmetic.py through its command line and the files it writes."""

import json
import resource
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py

TOOL = Path(__file__).parents[2] / "tools" / "make_arithmetic.py"


def sequences(file):
    """(text, text of the targets) of each sequence."""
    with h5py.File(file, "r") as data:
        ids, mask, offsets = (data[name][:] for name in ("input_ids", "loss_mask", "cu_seqlens"))
    for begin, end in zip(offsets[:-1], offsets[1:]):
        text = bytes(ids[begin:end].tolist()).decode("ascii")
        yield text, "".join(c for c, target in zip(text, mask[begin:end]) if target)


class MakeArithmetic(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def make(self, name, *arguments, code=0, **more):
        command = [sys.executable, TOOL, "--output", self.folder / name, *arguments]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, **more)
        self.assertEqual(done.returncode, code, done.stderr)
        return self.folder / name if code == 0 else done.stderr

    def test_answers_are_right_and_targets(self):
        output = self.make("two", "--operations", "+-", "--terms", 2, "--digits", 2, "--sft", 200,
                           "--test", 50)
        texts = list(sequences(output / "sft.h5"))
        self.assertEqual(len(texts), 200)
        for text, targets in texts:
            self.assertRegex(text, r"^[1-9]\d[+-][1-9]\d=-?\d+\n$")
            problem, answer = text.split("=")
            self.assertEqual(str(eval(problem)), answer[:-1])
            self.assertEqual(targets, answer)

    def test_test_problems_are_in_no_other_file(self):
        output = self.make("four", "--rounds", 3, "--prompts", 500, "--sft", 3000, "--test", 600)
        test = {text for text, targets in sequences(output / "test.h5")}
        self.assertEqual(len(test), 600)
        names = sorted(path.name for path in (output / "prompts").iterdir())
        self.assertEqual(names, ["0001.h5", "0002.h5", "0003.h5"])
        seen = {text.partition("=")[0] + "=" for text, _ in sequences(output / "sft.h5")}
        for name in names:
            prompts = [text for text, targets in sequences(output / "prompts" / name)]
            self.assertEqual(len(set(prompts)), 500)
            seen.update(prompts)
        self.assertFalse(test & seen)
        for text in test:
            self.assertRegex(text, r"^\d\+\d\+\d\+\d=$")

    def test_a_seed_gives_the_same_files(self):
        files = [self.make(name, "--seed", seed) for name, seed in (("a", 5), ("b", 5), ("c", 6))]
        for path in ("sft.h5", "test.h5", "prompts/0020.h5"):
            first, second, other = (list(sequences(file / path)) for file in files)
            self.assertEqual(first, second)
            self.assertNotEqual(first, other)

    def test_the_config_covers_every_character(self):
        config = json.loads((self.make("one") / "config.json").read_text())
        self.assertEqual(config["vocab_size"], 128)
        self.assertEqual(config["eos_token_id"], ord("\n"))

    def test_what_cannot_be_made_is_refused(self):
        self.assertIn("there are 100 problems", self.make("few", "--terms", 2, code=2))
        self.assertIn("at most 10000000", self.make("many", "--digits", 3, code=2))
        self.assertIn("is not some of +-", self.make("signs", "--operations", "+/", code=2))
        self.assertIn("must not be negative", self.make("seed", "--seed", -1, code=2))

    def test_fewer_rounds_do_not_leave_those_of_before(self):
        output = self.make("again", "--rounds", 3)
        self.make("again", "--rounds", 3, "--seed", 1)
        before = (output / "test.h5").read_bytes()
        told = self.make("again", "--rounds", 2, code=2)
        self.assertIn("none of the 2 asked for, such as 0003.h5; remove the folder", told)
        self.assertEqual((output / "test.h5").read_bytes(), before)

    def test_a_full_disk_is_a_message_and_leaves_no_half_file(self):
        for room in (100, 5000, 60000):  # HDF5 notices at other calls
            told = self.make("full", code=2, preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_FSIZE, (room, room)))
            # h5py may complain before.
            self.assertRegex(told, r"(?m)^error: '.*test\.h5' cannot be written: ")
            self.assertFalse([*self.folder.rglob("*.h5*")])


if __name__ == "__main__":
    unittest.main()
