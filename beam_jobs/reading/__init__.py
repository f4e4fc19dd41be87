"""From the files or tables of a log to columns of events."""
