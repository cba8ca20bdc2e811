#!/usr/bin/env python3
"""Makes the HDF5 token datasets that `archon train` and `archon eval` read."""

import argparse
import math
import sys
import tempfile
from itertools import chain
from pathlib import Path

import command_line

try:
    from token_dataset.errors import InputError
    from token_dataset.hdf5 import write_dataset
    from token_dataset.sources import KINDS, Options
    from token_dataset.spool import Spool, select
    from token_dataset.tokenizer import load_tokenizer, train_bpe
except ImportError as missing:
    command_line.exit_without_package(missing)

EXAMPLES = """\
sources:
  text:PATH     plain text, cut into sequences of --sequence-length tokens; every token
                but each sequence's first is a target
  prompt:PATH   JSON lines with a prompt and its answer; targets: the answer and its end token
  chat:PATH     JSON lines with {"messages": [{"role": ..., "content": ...}, ...]}, written
                with the model's chat template; targets: what the assistant says

  A weight after the path says how often a source's sequences are taken: text:a.txt:2 takes
  each twice, chat:b.jsonl:0.5 a random half (drawn by --seed). Held-out sequences are drawn
  before, and are in no training file.

examples:
  a vocabulary of 4096 tokens trained on a text, and 3 % of it kept for `archon eval`:
    prepare_dataset.py --source text:book.txt --train-bpe 4096 --tokenizer-output tokenizer \\
        --sequence-length 256 --output train.h5 --held-out 0.03 --held-out-output eval.h5

  chats and question/answer pairs with a model's own tokenizer and chat template:
    prepare_dataset.py --tokenizer models/Qwen3-0.6B --source chat:chats.jsonl \\
        --source prompt:questions.jsonl:2 --prompt-field question --output train.h5

exit code: 0 done, 2 wrong usage or input
"""


def parse_source(text):
    """kind:path[:weight] -> (kind, path, weight); the path may hold colons."""
    kind, _, path = text.partition(":")
    weight = 1.0
    head, _, tail = path.rpartition(":")
    if head:
        try:
            path, weight = head, float(tail)
        except ValueError:
            pass  # the colon belongs to the path
    if kind not in KINDS or not path:
        raise argparse.ArgumentTypeError(f"'{text}' is not {'|'.join(KINDS)}:PATH[:WEIGHT]")
    if not (math.isfinite(weight) and weight > 0):
        raise argparse.ArgumentTypeError(f"the weight of '{text}' must be a number above 0")
    return kind, path, weight


def fraction(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and less than 1")
    return value


def sequence_length(text):
    return command_line.at_least(2, text, "leaves no target: must be at least 2")


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", metavar="KIND:PATH[:WEIGHT]", action="append", required=True,
        type=parse_source, help="where the text comes from; may be repeated")
    add("--output", metavar="FILE", required=True, help="the training data set to write")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tokenizer", metavar="DIR|FILE", help="a model folder, or tokenizer.json")
    which.add_argument("--train-bpe", metavar="SIZE", type=command_line.positive,
                       help="train a byte-level BPE vocabulary of SIZE tokens on the sources")
    add("--tokenizer-output", metavar="DIR", help="where --train-bpe writes the tokenizer")
    add("--end-token", metavar="TOKEN", help="end-of-text token [the tokenizer's eos_token]")
    add("--chat-template", metavar="FILE", help="Jinja template for chats [the tokenizer's own]")
    add("--sequence-length", metavar="N", type=sequence_length, default=1024,
        help="tokens per sequence: texts are cut, longer records truncated [%(default)s]")
    add("--document-separator", metavar="STRING",
        help="splits texts into documents, each ended by the end-of-text token "
        "(write --document-separator=--- for one that begins with a dash)")
    add("--prompt-field", metavar="NAME", default="prompt", help="[%(default)s]")
    add("--answer-field", metavar="NAME", default="answer", help="[%(default)s]")
    add("--messages-field", metavar="NAME", default="messages", help="[%(default)s]")
    add("--held-out", metavar="FRACTION", type=fraction, default=0.0,
        help="share of the sequences kept out of training [0]")
    add("--held-out-output", metavar="FILE", help="the data set of held-out sequences to write")
    add("--seed", type=command_line.not_negative, default=0, help="draws what is held out, and the order [0]")
    options = parser.parse_args(arguments)
    if bool(options.train_bpe) != bool(options.tokenizer_output):
        parser.error("--train-bpe SIZE and --tokenizer-output DIR go together")
    for flag, given in (("--end-token", options.end_token), ("--chat-template", options.chat_template)):
        if options.train_bpe and given:
            parser.error(f"{flag} belongs to --tokenizer: one that is trained has its own")
    if bool(options.held_out) != bool(options.held_out_output):
        parser.error("--held-out FRACTION and --held-out-output FILE go together")
    taken = {Path(path).resolve(): "a --source" for _, path, _ in options.source}
    for flag, name in (("--output", options.output), ("--held-out-output", options.held_out_output)):
        path = Path(name).resolve() if name else None
        if path in taken:
            parser.error(f"{flag} {name} is {taken[path]}, which it would replace; choose another name")
        taken[path] = f"the file of {flag}"
    return options


def get_tokenizer(options, sources):
    if options.train_bpe:
        texts = chain.from_iterable(source.texts() for source in sources)
        return train_bpe(texts, options.train_bpe, options.tokenizer_output)
    return load_tokenizer(options.tokenizer, options.end_token, options.chat_template)


def prepare(options):
    read = Options(
        sequence_length=options.sequence_length,
        document_separator=options.document_separator,
        prompt_field=options.prompt_field,
        answer_field=options.answer_field,
        messages_field=options.messages_field,
    )
    sources = [KINDS[kind](path, read) for kind, path, _ in options.source]
    tokenizer = get_tokenizer(options, sources)
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".tokens-") as folder:
        spool = Spool(folder)
        taken = [
            spool.add_source(source.examples(tokenizer), path, options.sequence_length)
            for source, (_, path, _) in zip(sources, options.source)
        ]
        spool.finish()
        weighted = list(zip(taken, (weight for *_, weight in options.source)))
        training, held_out = select(weighted, options.held_out, options.seed)
        size = tokenizer.vocabulary_size
        summaries = [write_dataset(output, spool, training, size)]
        if options.held_out:
            Path(options.held_out_output).parent.mkdir(parents=True, exist_ok=True)
            summaries.append(write_dataset(options.held_out_output, spool, held_out, size))
    report(summaries, size, spool)


def report(summaries, vocabulary_size, spool):
    print(f"vocabulary: {vocabulary_size} tokens")
    for summary in summaries:
        print(
            f"{summary.file}: {summary.sequences} sequences, {summary.tokens} tokens, "
            f"{summary.targets} targets, unigram entropy {summary.unigram_entropy:.4f} nats"
        )
    if spool.truncated:
        print(f"truncated to --sequence-length: {spool.truncated} sequences")
    if spool.dropped:
        print(f"dropped, having no target: {spool.dropped} sequences")


def main():
    options = parse_arguments(sys.argv[1:])
    return command_line.run(lambda: prepare(options), InputError)


if __name__ == "__main__":
    sys.exit(main())
