"""Volumes and clips: read, prepare, learn, predict, measure.

Names load what they need when first used, so that `import volumetric` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volumetric.cases import Case, read_cases, write_cases
    from volumetric.errors import VolumetricError
    from volumetric.io import read_volume, write_volume
    from volumetric.preprocess import crop, orient, resample, resample_like
    from volumetric.volume import Volume

_HOMES = {
    "Case": "volumetric.cases",
    "Volume": "volumetric.volume",
    "VolumetricError": "volumetric.errors",
    "crop": "volumetric.preprocess",
    "orient": "volumetric.preprocess",
    "read_cases": "volumetric.cases",
    "read_volume": "volumetric.io",
    "resample": "volumetric.preprocess",
    "resample_like": "volumetric.preprocess",
    "write_cases": "volumetric.cases",
    "write_volume": "volumetric.io",
}

__all__ = [
    "Case",
    "Volume",
    "VolumetricError",
    "crop",
    "orient",
    "read_cases",
    "read_volume",
    "resample",
    "resample_like",
    "write_cases",
    "write_volume",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'volumetric' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
