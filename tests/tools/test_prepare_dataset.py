"""Tests of tools/prepare_dataset.py through its command line and the files it writes."""

import json
import math
import resource
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np
from tokenizers import Tokenizer

TOOL = Path(__file__).parents[2] / "tools" / "prepare_dataset.py"
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards brew potions".split()

# Drops reasoning of earlier turns and opens the last answer with an empty reasoning block, so
# that prefixes of a chat do not render to prefixes of its text.
REASONING_TEMPLATE = """\
{%- for message in messages %}
{%- set content = message.content | trim %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- if '</think>' in content and not loop.last %}
{%- set content = content.split('</think>')[-1] | trim %}
{%- elif loop.last and '</think>' not in content %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
{{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

GENERATION_TEMPLATE = """\
{% for message in messages %}{% if message.role == 'assistant' %}\
bot: {% generation %}{{ message.content }}!{% endgeneration %}
{% else %}{{ message.role }}: {{ message.content }}
{% endif %}{% endfor %}"""


def some_text(lines=400):
    random = np.random.default_rng(7)
    return "".join(
        " ".join(random.choice(WORDS, size=random.integers(4, 12))).capitalize() + ".\n"
        for _ in range(lines)
    )


class PrepareDataset(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        shared = Path(cls.shared.name)
        (shared / "text.txt").write_text(some_text())
        cls.tokenizer_folder = shared / "tokenizer"
        cls.first_run = subprocess.run(
            [sys.executable, TOOL, "--source", f"text:{shared / 'text.txt'}", "--train-bpe", "300",
             "--tokenizer-output", cls.tokenizer_folder, "--output", shared / "train.h5",
             "--sequence-length", "64"],
            capture_output=True, text=True,
        )
        cls.tokenizer = Tokenizer.from_file(str(cls.tokenizer_folder / "tokenizer.json"))

    @classmethod
    def tearDownClass(cls):
        cls.shared.cleanup()

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="with blank ")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    # --- helpers ---

    def write(self, name, content):
        path = self.folder / name
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def run_tool(self, *arguments, **more):
        return subprocess.run(
            [sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, **more
        )

    def prepare(self, *arguments, tokenizer=None):
        """Runs the tool; returns the training sequences as lists of (ids, mask)."""
        output = self.folder / "train.h5"
        result = self.run_tool(
            "--tokenizer", tokenizer or self.tokenizer_folder, "--output", output, *arguments
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        return self.read(output)

    def read(self, path):
        with h5py.File(path, "r") as file:
            ids, mask, ends = (file[n][...] for n in ("input_ids", "loss_mask", "cu_seqlens"))
            self.assertEqual((ids.dtype, mask.dtype, ends.dtype), (np.int32, np.uint8, np.int64))
            self.assertEqual((ends[0], ends[-1]), (0, len(ids)))
            self.assertEqual(len(mask), len(ids))
            self.assertIsNotNone(file["input_ids"].chunks)
            self.assertEqual(file.attrs["schema"], "archon.tokens")
            self.assertEqual(file.attrs["schema_version"], 1)
            self.assertRegex(file.attrs["archon_version"], r"^\d+\.\d+\.\d+$")
        spans = list(zip(ends, ends[1:]))
        self.assertTrue(all(mask[begin] == 0 for begin, _ in spans))
        return [(ids[b:e].tolist(), mask[b:e].tolist()) for b, e in spans]

    def targets(self, sequence):
        """The text of a sequence's targets, special tokens shown."""
        ids = [token for token, target in zip(*sequence) if target]
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def assert_refused(self, pattern, *arguments, tokenizer=None):
        output = self.folder / "refused.h5"
        result = self.run_tool(
            "--tokenizer", tokenizer or self.tokenizer_folder, "--output", output, *arguments
        )
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertRegex(result.stderr, pattern)
        self.assertNotIn("Traceback", result.stderr)
        self.assertFalse(output.exists())
        self.assertEqual([p.name for p in self.folder.iterdir() if p.name.startswith(".")], [])

    def model_folder(self, template):
        folder = self.folder / "model"
        folder.mkdir()
        for file in self.tokenizer_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "chat_template.jinja").write_text(template)
        return folder

    # --- text ---

    def test_trained_vocabulary_has_the_size_asked_for_and_the_summary_says_so(self):
        self.assertEqual(self.first_run.returncode, 0, self.first_run.stderr)
        self.assertEqual(self.tokenizer.get_vocab_size(), 300)
        self.assertIn("vocabulary: 300 tokens", self.first_run.stdout)
        text = "Ünïcode, 漢字 and\ttabs\n"
        self.assertEqual(self.tokenizer.decode(self.tokenizer.encode(text).ids), text)

    def test_text_sequences_join_to_the_text_whatever_the_chunks(self):
        text = some_text(300) + "\n\n  indented\n\n" + "x" * 70 + "\r\nlast line, no newline"
        path = self.write("text.txt", text)
        sequences = self.prepare("--source", f"text:{path}", "--sequence-length", 50)
        lengths = sorted(len(ids) for ids, _ in sequences)
        self.assertTrue(all(length == 50 for length in lengths[1:]))
        self.assertTrue(all(mask == [0] + [1] * (len(mask) - 1) for _, mask in sequences))

        # A piece per line instead of per megabyte: the same tokens.
        sys.path.insert(0, str(TOOL.parent))
        self.addCleanup(sys.path.remove, str(TOOL.parent))
        from token_dataset import sources
        from token_dataset.tokenizer import load_tokenizer

        whole = self.tokenizer.encode(text).ids + [self.tokenizer.token_to_id("<|endoftext|>")]
        chunk = sources.CHUNK_CHARACTERS
        self.addCleanup(setattr, sources, "CHUNK_CHARACTERS", chunk)
        for size in (chunk, 64, 7):
            sources.CHUNK_CHARACTERS = size
            source = sources.TextSource(path, sources.Options(sequence_length=50))
            examples = source.examples(load_tokenizer(self.tokenizer_folder))
            self.assertEqual([token for ids, _ in examples for token in ids], whole)

    def test_documents_end_with_the_end_token(self):
        path = self.write("text.txt", "one dog\n---\ntwo dogs\n---\n")
        ((ids, _),) = self.prepare("--source", f"text:{path}", "--document-separator=---")
        decoded = self.tokenizer.decode(ids, skip_special_tokens=False)
        self.assertEqual(decoded, "one dog<|endoftext|>two dogs<|endoftext|>")

    def test_held_out_sequences_are_in_no_training_file(self):
        path = self.write("text.txt", "".join(f"line number {i}\n" for i in range(2000)))
        held_out = self.folder / "held_out.h5"
        arguments = ["--source", f"text:{path}", "--sequence-length", 32, "--held-out", 0.1,
                     "--held-out-output", held_out]
        training = self.prepare(*arguments)
        kept = self.read(held_out)
        self.assertEqual(len(kept), round(0.1 * (len(kept) + len(training))))
        self.assertFalse({tuple(ids) for ids, _ in kept} & {tuple(ids) for ids, _ in training})
        self.assertEqual(training, self.prepare(*arguments))
        self.assertNotEqual(training, self.prepare(*arguments, "--seed", 1))

    def test_unigram_entropy_is_that_of_the_targets(self):
        path = self.write("text.txt", "a" * 100)
        sequences = self.prepare("--source", f"text:{path}", "--sequence-length", 8)
        targets = [t for ids, mask in sequences for t, m in zip(ids, mask) if m]
        shares = [targets.count(t) / len(targets) for t in set(targets)]
        with h5py.File(self.folder / "train.h5") as file:
            self.assertAlmostEqual(
                file.attrs["unigram_entropy"], -sum(p * math.log(p) for p in shares)
            )

    # --- records ---

    def test_prompt_targets_are_the_answer_and_its_end(self):
        path = self.write("qa.jsonl", [{"q": "the dog?", "a": " a fox"}, {"q": "", "a": "dog"}])
        sequences = self.prepare(
            "--source", f"prompt:{path}", "--prompt-field", "q", "--answer-field", "a"
        )
        first = next(s for s in sequences if "?" in self.tokenizer.decode(s[0]))
        self.assertEqual(self.targets(first), " a fox<|endoftext|>")
        self.assertEqual(len(sequences), 2)  # without a prompt, the first answer token is context

    def test_weights_say_how_often_sequences_are_taken(self):
        one = self.write("one.jsonl", [{"prompt": f"p {i}", "answer": "one"} for i in range(10)])
        two = self.write("two.jsonl", [{"prompt": f"p {i}", "answer": "two"} for i in range(10)])
        sequences = self.prepare("--source", f"prompt:{one}:2.5", "--source", f"prompt:{two}:0.3")
        answers = [self.targets(sequence) for sequence in sequences]
        self.assertEqual(answers.count("one<|endoftext|>"), 25)
        self.assertEqual(answers.count("two<|endoftext|>"), 3)
        ones = [ids for ids, _ in sequences if self.tokenizer.decode(ids).endswith("one")]
        self.assertEqual({ones.count(ids) for ids in ones}, {2, 3})

    CHAT = [
        {"role": "user", "content": "the fox?"},
        {"role": "assistant", "content": "<think>dog</think>  the fox. "},
        {"role": "user", "content": "the fox?"},
        {"role": "assistant", "content": "the fox."},
    ]

    def test_chat_targets_are_what_the_assistant_says(self):
        path = self.write("chat.jsonl", [{"messages": self.CHAT}])
        (sequence,) = self.prepare("--source", f"chat:{path}")
        self.assertEqual(
            self.targets(sequence),
            "<think>dog</think>  the fox. <|im_end|>the fox.<|im_end|>",
        )
        self.assertEqual(
            self.tokenizer.decode(sequence[0], skip_special_tokens=False),
            "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in self.CHAT),
        )

    def test_chat_templates_that_depend_on_the_place_of_a_message(self):
        path = self.write("chat.jsonl", [{"messages": self.CHAT}])
        folder = self.model_folder(REASONING_TEMPLATE)
        (sequence,) = self.prepare("--source", f"chat:{path}", tokenizer=folder)
        self.assertEqual(
            self.targets(sequence),
            "the fox.<|im_end|><think>\n\n</think>\n\nthe fox.<|im_end|>",
        )

    def test_chat_that_ends_with_the_user(self):
        path = self.write("chat.jsonl", [{"messages": self.CHAT[2:] + self.CHAT[:1]}])
        (sequence,) = self.prepare("--source", f"chat:{path}")
        self.assertEqual(self.targets(sequence), "the fox.<|im_end|>")

    def test_generation_marks_of_a_template_are_taken_at_their_word(self):
        path = self.write("chat.jsonl", [{"messages": self.CHAT[2:]}])
        folder = self.model_folder(GENERATION_TEMPLATE)
        (sequence,) = self.prepare("--source", f"chat:{path}", tokenizer=folder)
        self.assertEqual(self.targets(sequence), "the fox.!")

    def test_long_records_are_truncated_and_counted(self):
        path = self.write("qa.jsonl", [
            {"prompt": "dog", "answer": "fox " * 50},
            {"prompt": "dog " * 50, "answer": "fox"},
        ])
        result = self.run_tool(
            "--tokenizer", self.tokenizer_folder, "--source", f"prompt:{path}",
            "--sequence-length", 20, "--output", self.folder / "train.h5",
        )
        self.assertIn("truncated to --sequence-length: 2 sequences", result.stdout)
        self.assertIn("dropped, having no target: 1 sequences", result.stdout)
        ((ids, _),) = self.read(self.folder / "train.h5")
        self.assertEqual(len(ids), 20)

    # --- bad input ---

    def test_bad_records_are_named_by_line(self):
        good = json.dumps({"prompt": "a", "answer": "b"}) + "\n"
        for bad, pattern in [
            ('{"prompt": "a", "answer"\n', "line 2: malformed JSON"),
            ('{"prompt": "a"}\n', "line 2: no field 'answer'; it has 'prompt'"),
            ('{"prompt": "a", "answer": 3}\n', "line 2: the field 'answer' must be a string"),
            ("[1]\n", "line 2: must be a JSON object"),
        ]:
            with self.subTest(bad):
                path = self.write("bad.jsonl", good + bad)
                self.assert_refused(pattern, "--source", f"prompt:{path}")

    def test_bad_chats_are_named_by_line(self):
        for bad, pattern in [
            ({}, "line 1: no field 'messages'"),
            ({"messages": []}, "not empty"),
            ({"messages": ["hello"]}, "objects with role and content"),
            ({"messages": [{"role": "user"}]}, "'content' is no string"),
        ]:
            with self.subTest(bad):
                path = self.write("bad.jsonl", [bad])
                self.assert_refused(pattern, "--source", f"chat:{path}")

    def test_template_that_refuses_a_chat(self):
        path = self.write("chat.jsonl", [{"messages": self.CHAT}])
        folder = self.model_folder("{{ raise_exception('no chats today') }}")
        self.assert_refused(
            "line 1: .*no chats today", "--source", f"chat:{path}", tokenizer=folder
        )
        template = self.write("broken.jinja", "{% if %}")
        self.assert_refused("template is malformed", "--source", f"chat:{path}",
                            "--chat-template", template)

    def test_sources_with_nothing_in_them(self):
        for kind in ("text", "prompt", "chat"):
            with self.subTest(kind):
                path = self.write("empty", "")
                self.assert_refused("nothing to train on", "--source", f"{kind}:{path}")
        self.assert_refused("cannot be read", "--source", f"text:{self.folder / 'absent'}")
        path = self.write("binary", b"\xff\xfe\x00abc")
        self.assert_refused("not UTF-8", "--source", f"text:{path}")

    def test_bad_tokenizers(self):
        text = self.write("text.txt", some_text(5))
        source = ["--source", f"text:{text}"]
        self.assert_refused("no tokenizer at", *source, tokenizer=self.folder / "absent")
        self.assert_refused("is not a tokenizer", *source, tokenizer=text)
        self.assert_refused("'<nope>' is not in", *source, "--end-token", "<nope>")
        folder = self.model_folder("")
        (folder / "tokenizer_config.json").write_text("{")
        self.assert_refused("cannot be read as JSON", *source, tokenizer=folder)
        chat = self.write("chat.jsonl", [{"messages": self.CHAT}])
        bare = self.tokenizer_folder / "tokenizer.json"
        alone = self.write("tokenizer.json", bare.read_bytes())
        self.assert_refused("no chat template", "--source", f"chat:{chat}", tokenizer=alone)

    def test_vocabularies_that_cannot_be_trained(self):
        text = self.write("text.txt", "too little text\n")
        for size, pattern in [(0, "0 must be at least 1"), (100, "too small"),
                              (5000, "are too small for a vocabulary of 5000")]:
            result = self.run_tool(
                "--source", f"text:{text}", "--train-bpe", size,
                "--tokenizer-output", self.folder / "t", "--output", self.folder / "o.h5",
            )
            self.assertEqual(result.returncode, 2)
            self.assertRegex(result.stderr, pattern)

    def test_bad_options(self):
        text = self.write("text.txt", some_text(20))
        source = ["--source", f"text:{text}"]
        self.assert_refused(r"is not text\|prompt\|chat:PATH", "--source", "book:x")
        self.assert_refused("number above 0", "--source", f"text:{text}:0")
        self.assert_refused("number above 0", "--source", f"text:{text}:nan")
        self.assert_refused("go together", *source, "--held-out", "0.5")
        self.assert_refused("refused.h5 is the file of --output", *source, "--sequence-length", 16,
                            "--held-out", 0.5,
                            "--held-out-output", self.folder / "no/../refused.h5")
        before = Path(text).read_bytes()
        self.assert_refused("is a --source, which it would replace", *source, "--output", text)
        self.assertEqual(Path(text).read_bytes(), before)
        result = self.run_tool(*source, "--train-bpe", 300, "--tokenizer-output", self.folder / "t",
                               "--output", self.folder / "o.h5", "--end-token", "<end>")
        self.assertEqual(result.returncode, 2)
        self.assertIn("--end-token belongs to --tokenizer", result.stderr)
        self.assert_refused("less than 1", *source, "--held-out", "1")
        self.assert_refused("must not be negative", *source, "--seed", "-1")
        self.assert_refused("at least 2", *source, "--sequence-length", "1")
        self.assert_refused("no sequence is left", *source, "--held-out", "0.999",
                            "--held-out-output", self.folder / "h.h5")

    def test_output_that_cannot_be_written(self):
        text = self.write("text.txt", some_text(20))
        (self.folder / "taken.h5").mkdir()
        result = self.run_tool("--tokenizer", self.tokenizer_folder, "--source", f"text:{text}",
                               "--output", self.folder / "taken.h5")
        self.assertEqual(result.returncode, 2)
        self.assertIn("cannot be written", result.stderr)
        self.assertFalse((self.folder / "taken.h5.partial").exists())

    def test_a_tokenizer_that_cannot_be_written(self):
        text = self.write("text.txt", some_text())
        for room in (0, 100):  # of each file
            result = self.run_tool(
                "--source", f"text:{text}", "--train-bpe", 300,
                "--tokenizer-output", self.folder / "t", "--output", self.folder / "o.h5",
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
            )
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertRegex(result.stderr, "^error: '.*/t' cannot be written: .*File too large")

    def test_sequences_that_there_is_no_room_for_on_their_way_to_the_output(self):
        text = self.write("text.txt", some_text(1000))
        arguments = ["--tokenizer", self.tokenizer_folder, "--source", f"text:{text}:0.1",
                     "--sequence-length", 64, "--output", self.folder / "train.h5"]
        self.assertEqual(self.run_tool(*arguments).returncode, 0)
        room = 2 * (self.folder / "train.h5").stat().st_size  # a tenth of all sequences
        (self.folder / "train.h5").unlink()
        result = self.run_tool(
            *arguments,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        )
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertRegex(result.stderr, "^error: .* cannot be written: .*File too large; choose")
        self.assertEqual([path.name for path in self.folder.iterdir()], ["text.txt"])


if __name__ == "__main__":
    unittest.main()
