"""Sequences on their way to a file: on disk, so that the text need not fit in memory."""

from array import array
from pathlib import Path

import numpy as np

from token_dataset.errors import InputError, writing


class Spool:
    """Encoded sequences of all sources, in the order they were read."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.offsets = array("q", [0])
        self.truncated = 0
        self.dropped = 0
        self.tokens_file = open(self.folder / "tokens", "wb")
        self.mask_file = open(self.folder / "mask", "wb")

    def add_source(self, examples, name, longest):
        """Takes a source's examples; returns their indices. Those without a target are dropped."""
        first = len(self)
        for ids, mask in examples:
            if len(ids) > longest:
                ids, mask = ids[:longest], mask[:longest]
                self.truncated += 1
            if not any(mask):
                self.dropped += 1
                continue
            with writing(self.folder):  # ndarray.tofile misses errors: it has a buffer of its own
                self.tokens_file.write(np.asarray(ids, dtype=np.int32).tobytes())
                self.mask_file.write(np.asarray(mask, dtype=np.uint8).tobytes())
            self.offsets.append(self.offsets[-1] + len(ids))
        if len(self) == first:
            raise InputError(
                f"the source '{name}' has nothing to train on: it is empty, or no sequence of it "
                "has a target token within --sequence-length"
            )
        return np.arange(first, len(self))

    def finish(self):
        """Ends writing and opens the sequences for reading."""
        with writing(self.folder):
            self.tokens_file.close()
            self.mask_file.close()
        self.tokens = np.memmap(self.folder / "tokens", dtype=np.int32, mode="r")
        self.mask = np.memmap(self.folder / "mask", dtype=np.uint8, mode="r")

    def __len__(self):
        return len(self.offsets) - 1

    def __getitem__(self, index):
        begin, end = self.offsets[index], self.offsets[index + 1]
        return self.tokens[begin:end], self.mask[begin:end]


def select(sources, held_out_fraction, seed):
    """Splits and mixes sources, a list of (indices, weight): (training, held-out) indices.

    Held-out sequences are drawn first, from each source alike, and never trained on. The weight
    says how often a source's other sequences are taken: 2 = each twice, 0.5 = a random half.
    """
    training, held_out = [], []
    for number, (indices, weight) in enumerate(sources):
        random = np.random.default_rng([seed, number])
        order = random.permutation(indices)
        count = max(1, round(held_out_fraction * len(order))) if held_out_fraction > 0 else 0
        held_out.append(np.sort(order[:count]))
        rest = order[count:]
        training += [rest] * int(weight)
        training.append(random.permutation(rest)[: round(weight % 1 * len(rest))])
    mixed = np.random.default_rng([seed, len(sources)]).permutation(np.concatenate(training))
    if len(mixed) == 0:
        raise InputError(
            "no sequence is left to train on: the sources are too short for the weights and "
            "--held-out; give more text, a smaller --sequence-length or greater weights"
        )
    return mixed, np.concatenate(held_out)
