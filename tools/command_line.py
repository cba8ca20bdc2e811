"""What the command lines of these tools have in common."""

import argparse
import sys
from pathlib import Path


def positive(text):
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def exit_without_package(missing):
    """Ends a tool that a package is missing for: says which, and where to get it."""
    requirements = Path(__file__).with_name("requirements.txt")
    sys.exit(
        f"error: {missing}; pip install -r '{requirements}' brings all that is needed. "
        "In the sources job_scripts/setup.sh does so: then start this with .venv/bin/python"
    )


def run(work, input_error):
    """The exit code of a tool: 2, and a message, where `work` raises input_error or OSError."""
    try:
        work()
    except (input_error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
