"""Runs what the documentation shows: sh and python blocks, in order, in a folder that looks like
the repository with a finished build. Blocks of other kinds (console, text) are not run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py

SOURCE = Path(os.environ["ARCHON_TEST_SOURCE_DIR"])
BUILD = Path(os.environ["ARCHON_TEST_BINARY_DIR"])


def blocks(document, *languages):
    """(language, text) of each fenced block of these languages."""
    text = (SOURCE / document).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(language, body) for language, body in found if language in languages]


class Examples(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="archon-docs-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for name in ("cmake", "include", "tests", "tools", "LICENSE", "CMakeLists.txt"):
            (self.folder / name).symlink_to(SOURCE / name)
        shutil.copytree(SOURCE / "examples", self.folder / "examples")
        (self.folder / "build").mkdir()
        (self.folder / "build" / "release").symlink_to(BUILD)
        python = self.folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        # A script, since a link to a Python would leave its own virtual environment behind.
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        path = [BUILD / "bin", Path(os.environ["ARCHON_MPIEXEC"]).parent, os.environ["PATH"]]
        self.environment = dict(
            os.environ,
            ARCHON=str(self.folder),
            PATH=":".join(map(str, path)),
            OMPI_MCA_rmaps_base_oversubscribe="1",
        )

    def run_block(self, language, body):
        command = {"sh": ["bash", "-ec"], "python": [sys.executable, "-c"]}[language]
        done = subprocess.run([*command, body], cwd=self.folder, env=self.environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.returncode, 0, f"{body}\n{done.stdout}")
        return done.stdout

    def run_document(self, document):
        examples = blocks(document, "sh", "python")
        self.assertTrue(examples, f"{document} shows nothing to run")
        for language, body in examples:
            self.run_block(language, body)


class Start(Examples):
    def test_its_commands_run(self):
        self.run_document("docs/start.md")


class Demos(Examples):
    """The scripts that README begins with, in few steps, on the build that is tested."""

    def setUp(self):
        super().setUp()
        shutil.copytree(SOURCE / "job_scripts", self.folder / "job_scripts")
        (self.folder / "job_scripts" / "setup.sh").write_text("#!/bin/sh\n")  # there is a build

    def run_demo(self, *command):
        done = subprocess.run([f"job_scripts/{command[0]}", *command[1:]], cwd=self.folder, text=True,
                              env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    def test_the_quickstart_goes_its_whole_way_once(self):
        prose = "".join(page.read_text(encoding="utf-8") for page in sorted(SOURCE.glob("docs/*.md")))
        (self.folder / "prose.txt").write_text(prose, encoding="utf-8")
        command = ("quickstart.sh", "--smoke", "--steps", "4", "--text", "prose.txt")
        code, said = self.run_demo(*command)
        self.assertEqual(code, 0, said)
        self.assertNotIn("done before", said)
        before, after = map(float, re.findall(r"held-out loss \w+ training +([\d.]+)", said))
        self.assertLess(after, before)
        made = self.folder / "out" / "quickstart"
        for file in ("hf/model.safetensors", "hf/tokenizer.json", "metrics.h5", "loss.png"):
            self.assertTrue((made / file).is_file(), file)
        code, said = self.run_demo(*command)
        self.assertEqual((code, said.count("done before")), (0, 9), said)
        code, said = self.run_demo(*command, "--clean", "--output", "examples")
        self.assertEqual(code, 2, said)
        self.assertIn("which this script did not make", said)

    def test_the_demo_of_grpo_goes_its_whole_way(self):
        code, said = self.run_demo("grpo_demo.sh", "--rounds", "1")
        self.assertRegex(said, r"(?m)^ +1 +[\d.]+% +[\d.]+% +[+-][\d.]+ points$")
        self.assertEqual(code, int("a model gained less than 20 points" in said), said)
        self.assertTrue((self.folder / "out" / "grpo" / "accuracy.png").is_file())


class FileFormats(Examples):
    def test_its_example_runs(self):
        self.run_document("docs/file-formats.md")


class Generation(Examples):
    def test_its_example_runs(self):
        self.run_document("docs/generation.md")


class Goldens(Examples):
    def test_its_project_passes_and_notices_another_golden(self):
        self.run_document("docs/goldens.md")
        with h5py.File(self.folder / "goldens" / "tiny_train.h5", "a") as golden:
            golden["steps/000002/loss"][()] *= 1.01
        test = ["ctest", "--test-dir", self.folder / "goldens" / "build"]
        done = subprocess.run(test, env=self.environment, capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        failed = re.findall(r"- (\S+) \(Failed\)", done.stdout)
        self.assertEqual(failed, ["tiny_train.1x1x1.diff", "tiny_train.1x2x2.diff"], done.stdout)


class WeightSync(Examples):
    def test_its_consumer_receives_every_version(self):
        [block] = blocks("docs/weight-sync.md", "sh")
        received = re.findall(r"version (\d): (\d+) bytes", self.run_block(*block))
        self.assertEqual([version for version, _ in received], list("0123"))
        latest = self.folder / "out" / "sync" / "versions" / "latest" / "model.safetensors"
        self.assertLess(int(received[-1][1]), latest.stat().st_size)


class Plugins(Examples):
    """What needs transformers is not run here."""

    def test_it_shows_the_example(self):
        for language, file in (("cpp", "llama.cpp"), ("cmake", "CMakeLists.txt")):
            [(_, shown)] = blocks("docs/plugins.md", language)
            self.assertEqual(shown, (SOURCE / "examples" / "llama_plugin" / file).read_text())

    def test_its_plugin_is_built_and_equals_the_golden(self):
        build, compare = blocks("docs/plugins.md", "sh")
        self.assertRegex(self.run_block(*build), r"llama +llama +1\.0 +\S+/llama\.so")
        self.assertIn("passed: 7 datasets", self.run_block(*compare))


class ReinforcementLearning(Examples):
    def setUp(self):
        super().setUp()
        with h5py.File(self.folder / "rollouts.h5", "w") as file:
            file["input_ids"] = list(b"3+5=8\n3+5=9\n")
            file["cu_seqlens"] = [0, 6, 12]
            file["loss_mask"] = [0, 0, 0, 0, 1, 1] * 2
            file["group_ids"] = [0, 0]

    def rewards(self, option):
        self.run_block("sh", f"archon reward --data rollouts.h5 {option}")
        with h5py.File(self.folder / "rollouts.h5", "r") as file:
            return file["rewards"][:].tolist()

    def test_its_prompts_and_pairs_are_taken(self):
        config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 300,
                  "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                  "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
        (self.folder / "tokenizer").mkdir()
        (self.folder / "tokenizer" / "config.json").write_text(json.dumps(config))
        self.run_block("sh", ".venv/bin/python tools/prepare_dataset.py --source text:LICENSE "
                             "--train-bpe 300 --tokenizer-output tokenizer --output train.h5\n"
                             "archon init --config tokenizer/config.json --output model")
        write, show, _ = blocks("docs/reinforcement-learning.md", "python")
        self.run_block(*write)
        said = self.run_block("sh", "archon generate --model model --data prompts.h5 --group-size 2 "
                                    "--max-new-tokens 4 --output rollouts.h5")
        self.assertNotIn("has answers", said)
        self.assertEqual(self.run_block(*show).count("'Name a prime.\\n' -> "), 2)
        self.run_block("sh", "archon train --loss dpo --model model --reference model --steps 2 "
                             "--batch-sequences 2 --data pairs.h5 --output run")

    def test_its_program_judges(self):
        *_, (_, code) = blocks("docs/reinforcement-learning.md", "python")
        (self.folder / "judge.py").write_text(code)
        self.assertEqual(self.rewards("--reward-command '.venv/bin/python judge.py'"), [1, 0])

    def test_its_plugin_compiles_and_rewards(self):
        [(_, code)] = blocks("docs/reinforcement-learning.md", "cpp")
        examples = self.folder / "examples"
        (examples / "llama_plugin").rename(examples / "short_plugin")
        (examples / "short_plugin" / "short.cpp").write_text(code)
        project = examples / "short_plugin" / "CMakeLists.txt"
        project.write_text(project.read_text().replace("llama", "short"))
        _, build = blocks("docs/plugins.md", "sh")[0]
        self.run_block("sh", build.replace("llama", "short"))
        for reward in self.rewards("--reward out/short/short.so"):
            self.assertAlmostEqual(reward, -0.02)


class GpuPlanning(unittest.TestCase):
    PAGE = "docs/gpu-planning.md"
    CLUSTER = ("plan", "--model", "docs/models/qwen3-8b.json", "--device", "cuda")

    def run_archon(self, *arguments):
        return subprocess.run([BUILD / "bin" / "archon", *arguments], cwd=SOURCE, text=True,
                              capture_output=True)

    def page(self):
        return (SOURCE / self.PAGE).read_text(encoding="utf-8")

    def test_its_example_prints_what_it_shows(self):
        body = next(body for _, body in blocks(self.PAGE, "console") if "$ archon" in body)
        command, shown = re.fullmatch(r"\$ archon ((?:.*\\\n)*.*\n)(.*)", body, re.DOTALL).groups()
        done = self.run_archon(*command.replace("\\\n", " ").split())
        self.assertEqual(done.stdout, shown)

    def test_its_tables_are_what_the_tool_prints(self):
        models = [SOURCE / "docs" / "models" / f"{name}.json"
                  for name in ("qwen2.5-7b", "qwen3-8b", "qwen3-32b")]
        tool = [sys.executable, SOURCE / "tools" / "plan_table.py", "--gpu", "h100", *models,
                "--archon", BUILD / "bin" / "archon"]
        tables = subprocess.run(tool, check=True, capture_output=True, text=True).stdout
        self.assertTrue(self.page().endswith(tables.rstrip() + "\n"), tables)

    def figures(self, gpu):
        """What the program divides by, found from what it tells of two ranks in a node and in two;
        and the memory, from what it says of a step that does not fit."""
        mesh = (*self.CLUSTER, "--gpu", gpu, "--tp", "2", "--json")
        near, far, exact = (json.loads(self.run_archon(*mesh, *more).stdout)["bound"]["terms"]
                            for more in (("--dtype", "bfloat16"), ("--gpus-per-node", "1"), ()))
        rate = lambda term: term["amount"] / term["seconds"]
        refused = self.run_archon(*mesh, "--max-sequence", "2097152").stderr
        [memory] = re.findall(r"does not fit in ([\d.]+) MiB", refused)
        return [rate(near["compute"]) / 1e12, rate(exact["compute"]) / 1e12,
                float(memory) * 2**20 / 1e9, rate(near["update"]) / 1e9, rate(near["tp"]) / 1e9,
                rate(far["tp"]) * 8 / 1e9]

    def test_its_figures_are_the_programs(self):
        rows = re.findall(r"^\| (?:bfloat16, dense|float32, TFLOP|memory, GB|NVLink, GB|network per)"
                          r"[^|]*\|(.*)\|$", self.page(), re.MULTILINE)
        for column, gpu in enumerate(("a100", "h100", "b200")):
            shown = [float(row.split("|")[column]) for row in rows]
            found = self.figures(gpu)
            self.assertEqual(len(shown), len(found))
            for a, b in zip(shown, found):
                self.assertAlmostEqual(a / b, 1, places=5)


class Messages(unittest.TestCase):
    """Quoted as **`the message`**, with an ellipsis for each value; those of other programs name it."""

    PAGES = ("docs/troubleshooting.md", "docs/clusters.md")

    def sources(self):
        """The literals of the sources, with an ellipsis for what is filled in, and the scripts."""
        texts = []
        for file in (path for path in (SOURCE / "src").rglob("*") if path.suffix in (".cpp", ".hpp", ".c")):
            for literals in re.findall(r'(?:"(?:[^"\\\n]|\\.)*"\s*)+', file.read_text(encoding="utf-8")):
                text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals)).replace('\\"', '"')
                texts.append(re.sub(r"\{\w*(?::[^{}]*)?\}", "…", text))
        texts += [path.read_text(encoding="utf-8") for path in (SOURCE / "job_scripts").glob("*.sh")]
        return "\n".join(texts)

    def test_they_are_in_the_sources(self):
        sources = self.sources()
        for page in self.PAGES:
            quotes = re.findall(r"\*\*`([^`]+)`\*\*(?:\s\((Open MPI|Slurm)\))?",
                                (SOURCE / page).read_text(encoding="utf-8"))
            self.assertTrue(quotes, page)
            for message, other_program in quotes:
                if not other_program:
                    message = re.sub(r"\s+", " ", message)
                    self.assertTrue(message in sources, f"{page} quotes: {message}")


class Commands(unittest.TestCase):
    def help_of(self, *command):
        arguments = [BUILD / "bin" / "archon", *command, "--help"]
        return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout

    def test_the_page_has_what_help_prints(self):
        page = (SOURCE / "docs" / "cli.md").read_text(encoding="utf-8")
        text = self.help_of()
        names = re.findall(r"^  ([a-z]+) ", text.split("Examples:")[0], re.MULTILINE)
        self.assertIn("train", names)
        for command in ([], *([name] for name in names)):
            text = self.help_of(*command)
            self.assertTrue(f"```text\n{text.strip()}\n```" in page,
                            f"docs/cli.md must show what `archon {' '.join(command)} --help` prints")


class Links(unittest.TestCase):
    def test_they_lead_somewhere(self):
        for page in (*SOURCE.glob("*.md"), *SOURCE.glob("docs/*.md")):
            for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text(encoding="utf-8")):
                self.assertTrue((page.parent / link).exists(), f"{page.name} links to {link}")


if __name__ == "__main__":
    unittest.main()
