"""The procedural world of talking figures, in which everything about a clip is known."""
