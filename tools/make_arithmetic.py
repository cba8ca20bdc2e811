#!/usr/bin/env python3
"""Makes problems of arithmetic as token datasets, and the config.json of a small model for them.

A problem is text such as "3+5+2+8=", its answer "18" and a newline; every character is one token,
whose id is its ASCII code. The folder gets

  sft.h5           problems with their answers, which are the targets
  prompts/0001.h5  problems without answers, one such file a round of reinforcement learning
  test.h5          problems without answers that are in no other file
  config.json      a Qwen3 with a vocabulary of 128
"""

import argparse
import json
import operator
import sys
from pathlib import Path

import command_line

try:
    import numpy as np
    from token_dataset.errors import InputError
    from token_dataset.hdf5 import write_dataset
except ImportError as missing:
    command_line.exit_without_package(missing)

EXAMPLES = """\
examples:
  sums and differences of two numbers of two digits:
    make_arithmetic.py --operations +- --terms 2 --digits 2 --output arithmetic

exit code: 0 done, 2 wrong usage or input
"""

OPERATIONS = {"+": operator.add, "-": operator.sub}
VOCABULARY = 128
MOST_PROBLEMS = 10**7  # numbers of all of them are put into a random order

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": ord("\n"),
    "torch_dtype": "float32",
}


class Problems:
    """All problems of so many numbers of so many digits, in an order of their own."""

    def __init__(self, operations, terms, digits):
        self.operations = operations
        self.terms = terms
        self.numbers = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)

    def __len__(self):
        return len(self.numbers) ** self.terms * len(self.operations) ** (self.terms - 1)

    def __getitem__(self, index):
        """(problem, answer)"""
        rest, number = divmod(int(index), len(self.numbers))
        text, value = str(self.numbers[number]), self.numbers[number]
        for _ in range(self.terms - 1):
            rest, kind = divmod(rest, len(self.operations))
            rest, number = divmod(rest, len(self.numbers))
            text += f"{self.operations[kind]}{self.numbers[number]}"
            value = OPERATIONS[self.operations[kind]](value, self.numbers[number])
        return f"{text}=", f"{value}\n"


class Sequences:
    """Texts as what write_dataset() takes: token ids and targets."""

    def __init__(self, texts):
        self.texts = texts
        lengths = [len(prompt) + len(answer) for prompt, answer in texts]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])

    def __getitem__(self, index):
        prompt, answer = self.texts[index]
        ids = np.frombuffer((prompt + answer).encode("ascii"), np.uint8).astype(np.int32)
        return ids, (np.arange(len(ids)) >= len(prompt)).astype(np.uint8)


def write(path, texts):
    write_dataset(path, Sequences(texts), np.arange(len(texts)), VOCABULARY)


def refuse_leftovers(folder, names):
    """A run of reinforcement learning takes every file of the folder, of whatever seed."""
    others = sorted({path.name for path in folder.glob("*.h5")} - set(names))
    if others:
        raise InputError(
            f"'{folder}' holds files that are none of the {len(names)} asked for, such as {others[0]}; "
            "remove the folder, or choose another --output"
        )


def make(options):
    problems = Problems(options.operations, options.terms, options.digits)
    needed = options.test + max(options.sft, options.prompts)
    if not needed <= len(problems) <= MOST_PROBLEMS:
        raise InputError(
            f"there are {len(problems)} problems of {options.terms} numbers of "
            f"{options.digits} digits with '{options.operations}'; they must be at least the "
            f"{needed} that are asked for, and at most {MOST_PROBLEMS}; change --terms or --digits"
        )
    output = Path(options.output)
    rounds = [f"{number:04}.h5" for number in range(1, options.rounds + 1)]
    refuse_leftovers(output / "prompts", rounds)
    random = np.random.default_rng(options.seed)
    order = random.permutation(len(problems))
    test, train = order[: options.test], order[options.test :]

    (output / "prompts").mkdir(parents=True, exist_ok=True)
    write(output / "test.h5", [(problems[index][0], "") for index in test])
    write(output / "sft.h5", [problems[index] for index in train[: options.sft]])
    for name in rounds:
        drawn = random.choice(train, options.prompts, replace=False)
        write(output / "prompts" / name, [(problems[index][0], "") for index in drawn])
    (output / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def operations(text):
    if not text or set(text) - set(OPERATIONS) or len(set(text)) < len(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not some of {''.join(OPERATIONS)}")
    return text


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", metavar="DIR", required=True, help="the folder to fill")
    add("--operations", metavar="SIGNS", type=operations, default="+",
        help=f"some of {''.join(OPERATIONS)} [%(default)s]")
    add("--terms", metavar="N", type=command_line.positive, default=4,
        help="numbers of each problem [%(default)s]")
    add("--digits", type=int, choices=(1, 2, 3), default=1,
        help="of each number [%(default)s]")
    add("--sft", metavar="N", type=command_line.positive, default=4000,
        help="problems of sft.h5 [%(default)s]")
    add("--test", metavar="N", type=command_line.positive, default=1000,
        help="problems of test.h5 [%(default)s]")
    add("--rounds", metavar="N", type=command_line.positive, default=20,
        help="files in prompts/ [%(default)s]")
    add("--prompts", metavar="N", type=command_line.positive, default=64,
        help="problems of each file in prompts/ [%(default)s]")
    add("--seed", metavar="N", type=command_line.not_negative, default=0,
        help="of what is drawn [%(default)s]")
    return parser.parse_args(arguments)


def main():
    options = parse_arguments(sys.argv[1:])
    return command_line.run(lambda: make(options), InputError)


if __name__ == "__main__":
    sys.exit(main())
