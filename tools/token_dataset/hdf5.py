"""Writes the HDF5 token dataset that Archon reads (docs/file-formats.md)."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from token_dataset.errors import writing

CHUNK_TOKENS = 1 << 16


@dataclass
class Summary:
    file: str
    sequences: int
    tokens: int
    targets: int
    unigram_entropy: float  # nats, of the target tokens: what a model of frequencies alone reaches


def archon_version():
    """The project's version: of the installation this lies in, else from the sources' one place."""
    root = Path(__file__).parents[2]
    if (root / "VERSION").is_file():
        return (root / "VERSION").read_text(encoding="utf-8").strip()
    text = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(r"project\(Archon VERSION ([0-9.]+)", text).group(1)


def entropy(counts):
    """Entropy in nats of the distribution that `counts` gives."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def write_dataset(path, spool, indices, vocabulary_size):
    """Writes sequences of the spool beside `path` and renames into place: whole, or not at all."""
    partial = f"{path}.partial"
    try:
        with writing(path):
            with h5py.File(partial, "w") as file:
                summary = _write(file, path, spool, indices, vocabulary_size)
            os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return summary


def _write(file, path, spool, indices, vocabulary_size):
    offsets = np.asarray(spool.offsets)
    lengths = (offsets[1:] - offsets[:-1])[indices]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    total = int(ends[-1])
    layout = {"shape": (total,), "chunks": (min(CHUNK_TOKENS, total),)}
    tokens = file.create_dataset("input_ids", dtype=np.int32, **layout)
    mask = file.create_dataset("loss_mask", dtype=np.uint8, **layout)
    file.create_dataset("cu_seqlens", data=ends.astype(np.int64))

    counts = np.zeros(vocabulary_size, dtype=np.int64)
    first = 0
    while first < len(indices):
        # As many whole sequences as fill a chunk, and at least one.
        last = max(first + 1, np.searchsorted(ends, ends[first] + CHUNK_TOKENS, side="right") - 1)
        sequences = [spool[index] for index in indices[first:last]]
        ids, targets = (np.concatenate(parts) for parts in zip(*sequences))
        tokens[ends[first] : ends[last]] = ids
        mask[ends[first] : ends[last]] = targets
        counts += np.bincount(ids[targets == 1], minlength=vocabulary_size)
        first = int(last)

    summary = Summary(str(path), len(indices), total, int(counts.sum()), entropy(counts))
    file.attrs["archon_version"] = archon_version()
    file.attrs["schema"] = "archon.tokens"
    file.attrs["schema_version"] = 1
    file.attrs["vocab_size"] = vocabulary_size
    file.attrs["unigram_entropy"] = summary.unigram_entropy
    return summary
