class InputError(Exception):
    """What the user gave cannot be used; the message says what, why and what to do."""
