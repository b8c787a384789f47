"""The verb `data` of the command line: its arguments, and what it prints."""

DESCRIPTION = "Look into records, check them, or take over a teacher dump."
