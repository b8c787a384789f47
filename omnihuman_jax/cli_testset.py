"""The verb `testset` of the command line: its arguments, and what it prints."""

DESCRIPTION = "Build an evaluation set from your own copy of its videos."
