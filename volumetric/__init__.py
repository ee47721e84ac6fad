"""Volumes and clips: read, prepare, learn, predict, measure.

Names load what they need when first used, so that `import volumetric` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volumetric.cases import Case, read_cases, write_cases
    from volumetric.check import check_path
    from volumetric.errors import VolumetricError
    from volumetric.findings import Finding
    from volumetric.inference.segment import segment_volume
    from volumetric.io import read_volume, write_volume
    from volumetric.metrics.segmentation import score_masks
    from volumetric.metrics.statistics import bootstrap_mean, paired_difference
    from volumetric.model import Model, load_model
    from volumetric.preprocess import crop, orient, resample, resample_like
    from volumetric.volume import Volume

_HOMES = {
    "Case": "volumetric.cases",
    "Finding": "volumetric.findings",
    "Model": "volumetric.model",
    "Volume": "volumetric.volume",
    "VolumetricError": "volumetric.errors",
    "bootstrap_mean": "volumetric.metrics.statistics",
    "check_path": "volumetric.check",
    "crop": "volumetric.preprocess",
    "load_model": "volumetric.model",
    "orient": "volumetric.preprocess",
    "paired_difference": "volumetric.metrics.statistics",
    "read_cases": "volumetric.cases",
    "read_volume": "volumetric.io",
    "resample": "volumetric.preprocess",
    "resample_like": "volumetric.preprocess",
    "score_masks": "volumetric.metrics.segmentation",
    "segment_volume": "volumetric.inference.segment",
    "write_cases": "volumetric.cases",
    "write_volume": "volumetric.io",
}

__all__ = [
    "Case",
    "Finding",
    "Model",
    "Volume",
    "VolumetricError",
    "bootstrap_mean",
    "check_path",
    "crop",
    "load_model",
    "orient",
    "paired_difference",
    "read_cases",
    "read_volume",
    "resample",
    "resample_like",
    "score_masks",
    "segment_volume",
    "write_cases",
    "write_volume",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'volumetric' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
