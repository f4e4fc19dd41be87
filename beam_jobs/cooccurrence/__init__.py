"""Vectors of ids from what occurs together in histories: pairs, their sums, factors, files."""
