from contextlib import contextmanager


class InputError(Exception):
    """What the user gave cannot be used; the message says what, why and what to do."""


@contextmanager
def writing(path):
    """Says of an error that `path` cannot be written. h5py raises a RuntimeError, too, as it closes a
    file on a full disk."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"'{path}' cannot be written: {error}; choose a folder with room and permission"
        ) from None
