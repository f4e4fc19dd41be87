"""The description of the data that the Beam jobs, reader, model, export and client share.

Does not import TensorFlow.
"""

from tfdare.schema.features import (
    FIRST_ID,
    INT64,
    MAX_GAP,
    OOV_ID,
    PADDING_ID,
    STRING,
    CategoricalContext,
    Feature,
    NumericContext,
    Position,
    SchemaError,
    TimeGap,
)
from tfdare.schema.schema import ENCODINGS, LISTS, PACKED, Schema

__all__ = [
    "ENCODINGS",
    "FIRST_ID",
    "INT64",
    "LISTS",
    "MAX_GAP",
    "OOV_ID",
    "PACKED",
    "PADDING_ID",
    "STRING",
    "CategoricalContext",
    "Feature",
    "NumericContext",
    "Position",
    "Schema",
    "SchemaError",
    "TimeGap",
]
