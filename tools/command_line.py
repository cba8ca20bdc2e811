"""What the command lines of these tools have in common."""

import argparse
import contextlib
import os
import sys
from pathlib import Path


def at_least(least, text, complaint):
    """A whole number, for the types of argparse; `complaint` goes on after one below `least`."""
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} {complaint}")
    return value


def positive(text):
    return at_least(1, text, "must be at least 1")


def not_negative(text):
    return at_least(0, text, "must not be negative")


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
