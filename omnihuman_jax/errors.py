"""The errors that the command line prints as one line: "your input is at fault" (exit code 2) and "the work
cannot go on" (exit code 1)."""


class InputError(ValueError):
    """Something the user gave cannot work. The message says what was given and what would work."""


class StoppedError(RuntimeError):
    """The work cannot go on, through no fault of the input; what was saved is good. One line."""
