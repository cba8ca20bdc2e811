from contextlib import contextmanager


class InputError(Exception):
    """What the user gave cannot be used; the message says what, why and what to do."""


@contextmanager
def writing(path):
    """Says of an OSError that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written: {error}; choose a folder with room and permission"
        ) from None
