"""What a run needs on a slice, and what it costs, before anything is paid for."""
