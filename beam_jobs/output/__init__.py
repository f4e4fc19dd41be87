"""Files of a folder of sequences, its schema and manifest, and its publishing."""
