"""The commands of ``tfdare``: their options and what they print."""
