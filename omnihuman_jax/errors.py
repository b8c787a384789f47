"""The one error that means "your input is at fault": the command line prints it as one line, exit code 2."""


class InputError(ValueError):
    """Something the user gave cannot work. The message says what was given and what would work."""
