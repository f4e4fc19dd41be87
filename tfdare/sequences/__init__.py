"""Opens folders of sequences, which the Beam jobs write, and reads their records.

Does not import TensorFlow.
"""

from tfdare.sequences.folder import SPLITS, SUCCESS, Sequences, open_matching, open_sequences

__all__ = ["SPLITS", "SUCCESS", "Sequences", "open_matching", "open_sequences"]
