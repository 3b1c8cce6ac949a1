"""Export of a trained network to other formats: `python -m amdjax.export`."""

from amdjax.export.formats import FORMATS, Format, load_export
from amdjax.export.run import export

__all__ = ["FORMATS", "Format", "export", "load_export"]
