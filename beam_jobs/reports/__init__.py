"""Statistics of sequences, as numbers and as pages."""
