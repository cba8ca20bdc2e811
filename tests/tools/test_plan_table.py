"""Tests of tools/plan_table.py with a program that answers as `archon plan --json` does."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "plan_table.py"


def mesh(dp, cp, tp, fits, seconds, peak_bytes):
    return {"mesh": {"dp": dp, "cp": cp, "tp": tp}, "fits": fits, "peak_bytes": peak_bytes,
            "bound": {"seconds": seconds, "largest": "units", "tokens_per_second": 1234.4,
                      "mfu": 0.456}}


class PlanTable(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.archon = Path(folder.name) / "archon"

    def rows(self, answers, code=0):
        """Of a table for 16 GPUs, where the program answers the nth question with answers[n], and
        refuses the one after."""
        self.archon.write_text(f"""#!{sys.executable}
import pathlib, sys
asked = pathlib.Path(__file__).with_name("asked")
with open(asked, "a") as file:
    print(*sys.argv, file=file)
n = len(asked.read_text().splitlines()) - 1
answers = {[json.dumps(answer) for answer in answers]!r}
if n == len(answers):
    sys.exit("archon: error: no more answers")
print(answers[n])
""")
        self.archon.chmod(0o755)
        command = [sys.executable, TOOL, "some/model.json", "--gpu", "h100", "--gpus", "16",
                   "--lengths", "65536", "--archon", self.archon]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout.splitlines()[4:] if code == 0 else done.stderr

    def test_what_fits_without_recomputation_and_is_fastest_ends_the_search(self):
        [row, _] = self.rows([[mesh(4, 2, 2, True, 1.5, 70e9), mesh(16, 1, 1, False, 1.5, 90e9)]])
        self.assertEqual(
            row, "| 16 | 64K | 4 x 2 x 2 | none | 70.0 | 1.5 | units | 1234 | 0.46 |")
        asked = self.archon.with_name("asked").read_text()
        for option in ("--world-size 16", "--max-sequence 65536", "--batch-sequences 64"):
            self.assertIn(option, asked)

    def test_recomputation_is_tried_where_a_faster_mesh_does_not_fit(self):
        [row, _] = self.rows([
            [mesh(4, 2, 2, True, 3, 70e9), mesh(16, 1, 1, False, 1, 200e9)],
            [mesh(4, 2, 2, True, 3.5, 60e9), mesh(16, 1, 1, False, 1.2, 150e9)],
            [mesh(16, 1, 1, True, 2, 80e9)],
        ])
        self.assertIn("| 16 x 1 x 1 | full | 80.0 | 2 |", row)

    def test_nothing_fits(self):
        [row, _] = self.rows([[mesh(16, 1, 1, False, 1, peak)] for peak in (4e11, 3e11, 9e10, 1e11)])
        self.assertIn("| none fits |  | 90.0 |", row)

    def test_what_the_program_refuses_is_refused(self):
        self.assertEqual(self.rows([], code=2), "error: no more answers\n")


if __name__ == "__main__":
    unittest.main()
