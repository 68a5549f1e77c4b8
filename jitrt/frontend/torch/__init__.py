"""The torch front end: torch.export without decompositions, and one importer function an aten operator."""

from jitrt.frontend.torch.importer import Imported, import_torch

__all__ = ["Imported", "import_torch"]
