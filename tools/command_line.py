"""What the command lines of these tools have in common."""

import argparse
import contextlib
import os
import sys
from pathlib import Path


def positive(text):
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def not_negative(text):
    """A whole number of at least 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must not be negative")
    return value


def exit_without_package(missing):
    """Ends a tool that a package is missing for: says which, and where to get it."""
    requirements = Path(__file__).with_name("requirements.txt")
    sys.exit(
        f"error: {missing}; pip install -r '{requirements}' brings all that is needed. "
        "In the sources job_scripts/setup.sh does so: then start this with .venv/bin/python"
    )


def run(work, input_error):
    """The exit code of a tool that does its `work`. Where that raises input_error or OSError, the tool
    ends here: with a message, and exit code 2."""
    try:
        work()
    except (input_error, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # After a file that it could not close, HDF5 crashes where a process ends as usual.
        os._exit(2)
    return 0
