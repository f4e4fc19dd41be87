"""Folders of sequences, as the Beam jobs leave them, and what lies in them.

Free of TensorFlow.
"""

from tfdare.sequences.folder import SPLITS, SUCCESS, Sequences, open_matching, open_sequences

__all__ = ["SPLITS", "SUCCESS", "Sequences", "open_matching", "open_sequences"]
