"""Files to Volumes and back: the only place where scan and clip part."""

from volumetric.io.formats.nifti import write_nifti as write_volume
from volumetric.io.reader import read_volume

__all__ = ["read_volume", "write_volume"]
