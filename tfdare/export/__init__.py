"""SavedModels for TensorFlow Serving: signatures, export, and the checks before publishing."""

from tfdare.export.check import ExportError
from tfdare.export.publish import export_model, export_servables

__all__ = ["ExportError", "export_model", "export_servables"]
