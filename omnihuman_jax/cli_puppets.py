"""The verb `puppets` of the command line: its arguments, and what it prints."""

DESCRIPTION = "Write raw clips of the procedural world of talking figures (mp4, wav, json)."
