"""Modules that all jobs use: options of runners, errors, storage, progress, counts."""
