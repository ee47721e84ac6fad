"""Files to Volumes and back: the only place where scan and clip part.

Names load what they need when first used: the process that decodes videos must not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volumetric.io.formats.nifti import write_nifti as write_volume
    from volumetric.io.reader import read_volume

__all__ = ["read_volume", "write_volume"]


def __getattr__(name: str) -> object:
    if name == "read_volume":
        return import_module("volumetric.io.reader").read_volume
    if name == "write_volume":
        return import_module("volumetric.io.formats.nifti").write_nifti
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
