"""The one exception that means: the user can mend this."""


class ScratchError(ValueError):
    """Says in one line what was seen, what was wanted and what to do. Commands print it and exit with code 2."""
