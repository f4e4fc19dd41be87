"""Files of a folder of sequences: written aside, described, and published whole."""
