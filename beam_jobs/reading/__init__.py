"""Reading: files or tables of a log become columns of events."""
