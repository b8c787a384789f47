"""The verb `preprocess` of the command line: its arguments, and what it prints."""

DESCRIPTION = "Turn raw videos into filtered, encoded records with an index and a report."
