#!/usr/bin/env python3
"""Draws curves of training runs from their metrics.h5 as a PNG."""

import argparse
import sys
from pathlib import Path

import command_line

try:
    import h5py
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError as missing:
    command_line.exit_without_package(missing)

EXAMPLES = """\
examples:
  plot_metrics.py out/run --output loss.png
  plot_metrics.py "first=out/a" "second=out/b" --column loss --column grad_norm \\
      --smooth 20 --reference "unigram entropy=5.99" --output compare.png
  plot_metrics.py out/run --column time --column gemm_peak_share --column peak_memory_bytes \\
      --output cost.png
"""

AXIS_LABELS = {
    "step": "step",
    "loss": "loss [nats per target]",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "tokens": "tokens per step",
    "targets": "targets per step",
    "seconds": "time per step [s]",
    "tokens_per_second": "tokens/s",
    "peak_memory_bytes": "peak memory of\nthe largest rank [GiB]",
    "gflops": "arithmetic of all ranks [GFLOP/s]",
    "gemm_peak_share": "share of the\nmatrix-product peak",
    "skipped": "skipped steps",
    "accuracy": "share of right answers\nto unseen problems",
    "reward": "mean reward of\na round's rollouts",
    "time": "time per step,\nmean of the ranks [s]",
    "traffic": "sent per step by\nthe largest rank [MiB]",
}
SCALES = {"peak_memory_bytes": 2.0**-30}
FROM_ZERO = {"peak_memory_bytes", "gemm_peak_share"}  # else a small change looks large
# Panels of several columns, one on top of the other.
STACKS = {
    "time": {f"{name}_seconds": name for name in ("compute", "communication", "data", "io")},
    "traffic": {
        f"{name}_bytes": name for name in ("tp", "cp", "dp", "shard", "model_parallel", "world")
    },
}
SCALES.update((column, 2.0**-20) for column in STACKS["traffic"])


class InputError(Exception):
    """What the user gave cannot be drawn."""


class Run:
    """One run's metrics: a 1-D column of values per name, one row per step."""

    def __init__(self, argument):
        labelled = "=" in argument and not Path(argument).exists()
        label, _, path = argument.partition("=") if labelled else ("", "", argument)
        path = Path(path)
        file = path / "metrics.h5" if path.is_dir() else path
        self.label = label or (file.parent if file.name == "metrics.h5" else file).name or str(file)
        try:
            with h5py.File(file, "r") as metrics:
                self.columns = {
                    name: data[...] for name, data in metrics.items()
                    if isinstance(data, h5py.Dataset) and data.ndim == 1
                }
        except OSError as error:
            raise InputError(f"'{file}' cannot be read as HDF5: {error}") from None
        if not len(self.columns.get("step", [])):
            raise InputError(f"'{file}' holds no steps: it has no /step, or an empty one")
        self.file = file

    def column(self, name):
        if name not in self.columns:
            raise InputError(f"'{self.file}' has no column {name!r}; it has {', '.join(self.columns)}")
        values = self.columns[name].astype(float) * SCALES.get(name, 1.0)
        if len(values) != len(self.columns["step"]):
            raise InputError(f"'{self.file}': /{name} has {len(values)} rows, /step another number")
        return values


def smoothed(values, window):
    """Mean over the last `window` steps (over fewer at the start)."""
    ends = range(1, len(values) + 1)
    return np.array([values[max(0, end - window) : end].mean() for end in ends])


def parse_reference(text):
    label, _, value = text.rpartition("=")
    return label, float(value)


def draw_column(axes, name, runs, window):
    for number, run in enumerate(runs):
        colour = f"C{number}"
        values = run.column(name)
        # A line ends at a step without a value: a column with one now and then would have none.
        there = np.isfinite(values)
        steps, values = run.columns["step"][there], values[there]
        if window > 1:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
            values = smoothed(values, window)
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, values, color=colour, linewidth=1.8, marker=marker, label=run.label)


def draw_stack(axes, name, run, window):
    steps = run.columns["step"]
    parts = {label: smoothed(run.column(column), window) for column, label in STACKS[name].items()}
    shown = {label: values for label, values in parts.items() if np.nanmax(values) > 0}
    # A single step is no area: it gets a width of its own.
    edges = np.array([0.5, 1.5]) + steps[0] - 1 if len(steps) == 1 else steps
    heights = [np.broadcast_to(values, len(edges)) for values in shown.values()]
    if heights:
        axes.stackplot(edges, heights, labels=shown, alpha=0.85)
        # In the order of the areas, from the top.
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], frameon=False, loc="center left",
                    bbox_to_anchor=(1.0, 0.5))


def finish_panel(axes, name):
    axes.set_ylabel(AXIS_LABELS.get(name, name))
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    if name in FROM_ZERO:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw(runs, columns, references, window, title, output):
    for name in STACKS:
        if name in columns and len(runs) > 1:
            raise InputError(f"--column {name} shows one run, {len(runs)} were given")
    height = 4.4 if len(columns) == 1 else 1.0 + 2.6 * len(columns)
    figure, panels = plt.subplots(
        len(columns), 1, figsize=(8, height), sharex=True, squeeze=False, layout="constrained"
    )
    panels = panels[:, 0]
    for axes, name in zip(panels, columns):
        if name in STACKS:
            draw_stack(axes, name, runs[0], window)
        else:
            draw_column(axes, name, runs, window)
        finish_panel(axes, name)
    for number, (label, value) in enumerate(references):
        panels[0].axhline(value, color=f"C{len(runs) + number}", linestyle="--", linewidth=1.2,
                          label=f"{label} ({value:.3g})" if label else f"{value:.3g}")
    if references or columns[0] not in STACKS:
        panels[0].legend(frameon=False)
    panels[-1].set_xlabel(AXIS_LABELS["step"])
    if window > 1:
        title += f" (mean of {window} steps)"
    figure.suptitle(title)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(output, dpi=150)
    except ValueError as error:  # by the ending of its name
        raise InputError(f"'{output}' cannot be drawn: {error}") from None
    plt.close(figure)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", metavar="[LABEL=]DIR|FILE", nargs="+", help="a run's folder, or its metrics.h5")
    add("--output", metavar="FILE", required=True, help="the PNG to write")
    add("--column", metavar="NAME", action="append",
        help="what to draw, one panel each: a column of metrics.h5; or time or traffic, stacked "
             "by what a step's seconds and bytes go to; may be repeated [loss]")
    add("--smooth", metavar="STEPS", type=command_line.positive, default=1,
        help="draw the mean over the last STEPS steps, and the raw values pale [%(default)s]")
    add("--reference", metavar="LABEL=VALUE", action="append", default=[], type=parse_reference,
        help="a horizontal line in the first panel; may be repeated")
    add("--title", default="Training", help="[%(default)s]")
    return parser.parse_args(arguments)


def main():
    options = parse_arguments(sys.argv[1:])

    def plot():
        runs = [Run(argument) for argument in options.runs]
        draw(runs, options.column or ["loss"], options.reference, options.smooth, options.title,
             options.output)

    return command_line.run(plot, InputError)


if __name__ == "__main__":
    sys.exit(main())
