"""SavedModels for TensorFlow Serving: signatures, export, and the checks before publishing.

Signatures take *raw ids*, as in the log, or *row ids* of the embedding tables; row ids are 0 for
padding, 1 for ids that the vocabulary lacks, and from 2 those of the vocabulary.
"""

from tfdare.export.check import ExportError
from tfdare.export.publish import export_model, export_servables

__all__ = ["ExportError", "export_model", "export_servables"]
