"""What `cmake --install` leaves is complete, works wherever it is moved, and does not name the source
or build tree. examples/llama_plugin is built against it as a stranger would, and compared with
HuggingFace."""

import itertools
import json
import re
import shutil
import sys
import unittest
from pathlib import Path

import h5py
import numpy as np

from installation import BUILD, CMAKE, SOURCE, Installation

MESHES = ((1, 1, 1), (1, 2, 2))
CASES = ("llama_kv2_h8", "llama_tied")
FROM_HUGGINGFACE = 2e-5  # of the tensor's largest magnitude
WEIGHTS_AFTER_STEPS = 2e-4
NOISE_GRADIENT = 1e-4  # gradients below this share of their tensor's largest are rounding noise
STEPS = 5


def setUpModule():
    global installed
    installed = Installation()
    unittest.addModuleCleanup(installed.remove)


def commands():
    return re.findall(r"^  ([a-z]+) ", installed.archon("--help").split("Examples:")[0], re.MULTILINE)


def options_in_help(command):
    return re.findall(r"^  (--[a-z0-9-]+)", installed.archon(command, "--help"), re.MULTILINE)


class Files(unittest.TestCase):
    def test_none_names_the_source_or_build_tree(self):
        # A whole path, no part of another. It comes first since it is found fast.
        places = [re.compile(rf"{tree}(?<![\w./-]{tree})(?![\w.-])".encode())
                  for tree in (re.escape(str(folder)) for folder in (SOURCE, BUILD))]
        for file in (path for path in installed.prefix.rglob("*") if path.is_file()):
            content = file.read_bytes()
            for place in places:
                self.assertIsNone(place.search(content), file)

    def test_everyone_may_read_them(self):
        for path in installed.prefix.rglob("*"):
            program = path.is_dir() or path.parent.name in ("bin", "job_scripts")
            needed = 0o555 if program else 0o444
            self.assertEqual(path.stat().st_mode & needed, needed, path)

    def test_programs_find_every_library(self):
        programs = [installed.prefix / "bin" / "archon", *installed.plugins.glob("*.so")]
        self.assertEqual(len(programs), 4)
        for program in programs:
            libraries = dict(re.findall(r"(\S+) => (.*?)(?: \(0x\w+\))?$",
                                        installed.run("ldd", program), re.MULTILINE))
            self.assertNotIn("not found", libraries.values(), program)
            for name in ("libarchon.so", "libtorch_cpu.so", "libc10.so"):
                self.assertTrue(Path(libraries[name]).resolve().is_relative_to(installed.prefix),
                                f"{program} takes {name} from {libraries[name]}")

    def test_documents_are_there(self):
        documents = installed.prefix / "share" / "doc" / "archon"
        for name in ("LICENSE", "README.md", "docs/plugins.md"):
            self.assertTrue((documents / name).is_file(), name)

    def test_the_manual_tells_what_help_tells(self):
        page = (installed.prefix / "share" / "man" / "man1" / "archon.1").read_text()
        sections = dict(re.findall(r"^\.SS archon (\w+)\n(.*?)(?=^\.S[SH])", page,
                                   re.DOTALL | re.MULTILINE))
        self.assertEqual(list(sections), commands())
        for command, section in sections.items():
            told = re.findall(r"^\.TP\n\\fB(\\-\\-\S+?)\\fR", section, re.MULTILINE)
            self.assertEqual([name.replace("\\", "") for name in told], options_in_help(command))


class Programs(unittest.TestCase):
    def test_every_part_of_the_machine_works(self):
        installed.archon("doctor")

    def test_plugins_of_the_prefix_are_loaded(self):
        listed = installed.archon("plugins")
        for name in ("arithmetic", "qwen2", "qwen3"):
            self.assertIn(str(installed.plugins / f"{name}.so"), listed)

    def test_job_scripts_find_what_they_share(self):
        scripts = installed.prefix / "share" / "archon" / "job_scripts"
        shared = installed.run("bash", "-c", f"source '{scripts}/common.sh' && ls \"$archon_root/tools\"")
        self.assertIn("prepare_dataset.py", shared)

    def test_tools_write_files_of_this_version(self):
        tools = installed.prefix / "share" / "archon" / "tools"
        installed.run(sys.executable, tools / "make_arithmetic.py", "--output", "problems")
        with h5py.File(installed.folder / "problems" / "sft.h5") as file:
            self.assertEqual(f"archon {file.attrs['archon_version']}",
                             installed.archon("--version").strip())

    def test_tools_name_the_packages_they_need(self):
        tools = installed.prefix / "share" / "archon" / "tools"
        told = installed.run(sys.executable, "-S", "-E", tools / "make_arithmetic.py", code=1)
        self.assertIn(f"pip install -r '{tools / 'requirements.txt'}'", told)


class Completion(unittest.TestCase):
    def complete(self, *words):
        script = installed.prefix / "share" / "bash-completion" / "completions" / "archon"
        return installed.run(
            "bash", "-uc", 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _archon; '
            'printf "%s\\n" "${COMPREPLY[@]}"', script, "archon", *words).split()

    def test_every_command(self):
        self.assertEqual(self.complete(""), [*commands(), "--help", "--version"])
        self.assertEqual(self.complete("ex"), ["export"])

    def test_every_option_of_every_command(self):
        for command in commands():
            self.assertEqual(self.complete(command, "--"), [*options_in_help(command), "--help"])

    def test_values(self):
        self.assertEqual(self.complete("train", "--shard", ""), ["none", "optimizer", "full"])
        self.assertEqual(self.complete("train", "--shard", "=", "f"), ["full"])
        self.assertEqual(self.complete("train", "--lr", ""), [])

    def test_files(self):
        (installed.folder / "batch.h5").touch()
        for words in (("train", "--data"), ("inspect",), ("train", "--data", "=")):
            self.assertEqual(self.complete(*words, "bat"), ["batch.h5"])
        self.assertIn("auto", self.complete("train", "--resume", ""))


def largest(array):
    return np.abs(array).max(initial=0)


def as_record(golden, file):
    """The first step of a golden under the names of `archon train --record`."""
    with h5py.File(file, "w") as record:
        step = record.create_group("steps/000001")
        step["loss"], step["grad_norm"] = golden["sft/loss"][()], golden["sft/grad_norm"][()]
        golden.copy("sft/grads", step, "gradients")


class LlamaPlugin(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = installed.folder / "a plugin"
        shutil.copytree(installed.prefix / "share" / "archon" / "examples" / "llama_plugin", cls.folder)
        shutil.copytree(SOURCE / "tests" / "golden", installed.folder / "golden",
                        ignore=lambda folder, names: [name for name in names if name.startswith("q")])
        build = cls.folder / "build"
        installed.run(CMAKE, "-S", cls.folder, "-B", build, "-G", "Ninja",
                      f"-DCMAKE_PREFIX_PATH={installed.prefix}")
        installed.run(CMAKE, "--build", build)
        installed.environment["ARCHON_PLUGIN_PATH"] = str(build)
        cls.addClassCleanup(installed.environment.pop, "ARCHON_PLUGIN_PATH")

    def inputs(self, case):
        folder = installed.folder / "golden" / case
        return ["--model", folder / "model", "--data", folder / "batch.h5"]

    def golden(self, case):
        return installed.folder / "golden" / case / "golden.h5"

    def test_it_is_listed(self):
        self.assertRegex(installed.archon("plugins"),
                         rf"llama +llama +1\.0 +{re.escape(str(self.folder))}/build/llama\.so")

    def test_forward_equals_huggingface(self):
        for case, mesh in itertools.product(CASES, MESHES):
            output = self.folder / f"{case}-{mesh[1]}.h5"
            installed.archon("forward", *self.inputs(case), "--what", "logprobs,entropy,logits,hidden",
                             "--output", output, mesh=mesh)
            only = [f"--only={name}" for name in ("logprobs", "entropy", "logits", "hidden/*", "final_norm")]
            told = installed.archon("diff", self.golden(case), output, "--rtol", FROM_HUGGINGFACE, *only)
            self.assertIn("passed: 7 datasets", told)

    def test_training_equals_huggingface(self):
        for case, mesh in itertools.product(CASES, MESHES):
            output = self.folder / f"train-{case}-{mesh[1]}"
            with h5py.File(self.golden(case)) as golden:
                as_record(golden, f"{output}-golden.h5")
                lr = golden["sft"].attrs["lr"]
                installed.archon("train", *self.inputs(case), "--output", output, "--batch-sequences", 0,
                                 "--micro-batch-tokens", 40, "--shuffle", "off", "--lr", lr,
                                 "--steps", STEPS, "--save-hf", "off", "--record", f"{output}.h5",
                                 "--record-what", "gradients,weights", "--record-steps", f"1-{STEPS}",
                                 mesh=mesh)
                told = installed.archon("diff", f"{output}-golden.h5", f"{output}.h5", "--rtol",
                                        FROM_HUGGINGFACE, "--only", "steps/000001/*",
                                        "--ignore", "steps/000001/weights/*")
                self.assertIn(f"passed: {len(self.tensors(golden)) + 2} datasets", told)
                with h5py.File(f"{output}.h5") as record:
                    self.check_steps(golden, record, lr)

    def tensors(self, golden):
        names = []
        golden["sft/grads"].visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        return names

    def check_steps(self, golden, record, lr):
        for step, loss in enumerate(golden["sft/train_losses"], 1):
            self.assertLessEqual(abs(record[f"steps/{step:06}/loss"][()] - loss), WEIGHTS_AFTER_STEPS * loss)
        for name in self.tensors(golden):
            weights, gradient = golden[f"sft/weights_after/{name}"][()], golden[f"sft/grads/{name}"][()]
            difference = np.abs(weights - record[f"steps/{STEPS:06}/weights/{name}"][()])
            # Where the gradient is rounding noise, so is the direction of AdamW's step.
            noise = np.abs(gradient) <= NOISE_GRADIENT * largest(gradient)
            self.assertLessEqual(largest(difference[~noise]), WEIGHTS_AFTER_STEPS * largest(weights), name)
            self.assertLessEqual(largest(difference[noise]), 2 * lr * STEPS, name)

    def test_a_resumed_run_ends_as_one_that_was_never_stopped(self):
        def train(output, steps):
            installed.archon("train", *self.inputs(CASES[0]), "--output", self.folder / output,
                             "--batch-sequences", 2, "--lr", 1e-3, "--steps", steps, "--save-every", 2,
                             mesh=(1, 2, 2))

        train("straight", 4)
        train("stopped", 2)
        train("stopped", 4)
        installed.archon("diff", self.folder / "straight" / "hf", self.folder / "stopped" / "hf",
                         "--rtol", 0, "--atol", 0)

    def test_what_it_does_not_do_is_refused_by_name(self):
        model = installed.folder / "golden" / CASES[0] / "model" / "config.json"
        for wrong in ({"attention_bias": True}, {"mlp_bias": True}, {"pretraining_tp": 2},
                      {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}):
            config = self.folder / "config.json"
            config.write_text(json.dumps(json.loads(model.read_text()) | wrong))
            told = installed.archon("init", "--config", config, "--output", self.folder / "new", code=2)
            self.assertIn(f'"{next(iter(wrong))}', told)


if __name__ == "__main__":
    unittest.main()
