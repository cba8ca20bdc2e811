"""What the command lines of these tools have in common."""

import argparse
import sys


def positive(text):
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def run(work, input_error):
    """The exit code of a tool: 2, and a message, where `work` raises input_error or OSError."""
    try:
        work()
    except (input_error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
