"""What a data set looks like: measured case by case, then summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.errors import ManifestError
from volumetric.intensity import fill_padding, measured, to_suv
from volumetric.preprocess import foreground_box, orient
from volumetric.volume import Volume

_SAMPLES = 4_000  # intensities kept a case: a hundred cases give 400,000


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What one case contributes, along canonical axes (D to superior, H anterior, W right).

    Attributes:
        id: the case.
        shape: voxels along (D, H, W) within the box that holds the image.
        spacing_mm: along (D, H, W).
        intensities: up to 4,000 foreground values a channel, (C, n) float32.
        volume_ml: of each class.
        unit: of the intensities: "HU", "SUV" (into which PET is turned where its header allows
            it), …; None where the file does not say.
    """

    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    intensities: NDArray[np.float32]
    volume_ml: Mapping[str, float]
    unit: str | None = None


def facts_from(values: Mapping[str, Any]) -> CaseFacts:
    """Facts as `dataclasses.asdict` gave them, by way of JSON; what else is there is left out."""
    return CaseFacts(
        values["id"],
        tuple(values["shape"]),
        tuple(values["spacing_mm"]),
        np.array(values["intensities"], dtype=np.float32),
        values["volume_ml"],
        values["unit"],
    )


def measure_case(
    case_id: str, image: Volume, mask: Volume | None, *, classes: Mapping[int, str]
) -> CaseFacts:
    """The facts of one case; without a mask all that was measured counts as foreground."""
    image = orient(to_suv(image) if image.about.suv_factor else image)
    _, size = foreground_box(fill_padding(image).data)
    flat = image.data.reshape(image.data.shape[0], -1)
    volume_ml: dict[str, float] = {}
    if mask is not None:
        labels = orient(mask).data.reshape(-1)
        counts = torch.bincount(labels.to(torch.int64), minlength=max(classes) + 1)
        voxel_ml = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
        volume_ml = {name: int(counts[label]) * voxel_ml for label, name in classes.items()}
        flat = flat[:, labels > 0]
    elif image.about.padding is not None:
        flat = flat[:, measured(image).all(0).reshape(-1)]
    step = max(1, -(-flat.shape[1] // _SAMPLES))  # rounded up, or the last slices are never seen
    values = flat[:, ::step].to(torch.float32).numpy()
    return CaseFacts(case_id, size, image.spacing, values, volume_ml, image.about.unit)


def sum_up(
    facts: Sequence[CaseFacts], *, modality: str, classes: Mapping[int, str]
) -> dict[str, Any]:
    """The fingerprint of a data set, as plain JSON values.

    Intensities are those of labelled voxels, unless no case has a mask.

    Keys: n_cases, modality, unit (None unless all cases share one), n_channels, shape and
    spacing_mm (median, min, max along D, H, W), anisotropy, voxels (sum over cases), intensity
    (of the first channel: mean, std, percentiles of the foreground), class_volume_ml (median,
    min, max, n_cases in which the class occurs).
    """
    shapes = np.array([fact.shape for fact in facts])
    spacings = np.array([fact.spacing_mm for fact in facts])
    labelled = [fact for fact in facts if fact.volume_ml] or list(facts)
    spread = spacings.max(1) / spacings.min(1)
    units = {fact.unit for fact in facts}
    return {
        "n_cases": len(facts),
        "modality": modality,
        "unit": units.pop() if len(units) == 1 else None,
        "n_channels": len(facts[0].intensities),
        "shape": _spread(shapes),
        "spacing_mm": _spread(spacings)
        | {"percentile_10": _rounded(np.percentile(spacings, 10, axis=0))},
        "anisotropy": _rounded(np.median(spread)),
        "voxels": int(shapes.prod(1).sum()),
        "intensity": _intensity(np.concatenate([fact.intensities[0] for fact in labelled])),
        "class_volume_ml": {
            name: _class_volume([fact.volume_ml[name] for fact in facts if name in fact.volume_ml])
            for name in classes.values()
        },
    }


def _intensity(values: NDArray[np.float32]) -> dict[str, float]:
    if not values.size:
        raise ManifestError(
            "no-foreground",
            "no mask holds a single labelled voxel",
            "Check that the masks are the right files",
        )
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return {
        "mean": _rounded(values.mean(dtype=np.float64)),
        "std": _rounded(values.std(dtype=np.float64)),
        "percentile_00_5": _rounded(low),
        "median": _rounded(median),
        "percentile_99_5": _rounded(high),
        "min": _rounded(values.min()),
        "max": _rounded(values.max()),
    }


def _class_volume(values: Sequence[float]) -> dict[str, Any]:
    present = [value for value in values if value > 0]
    if not present:
        return {"median": None, "min": None, "max": None, "n_cases": 0}
    return {
        "median": _rounded(np.median(present)),
        "min": _rounded(min(present)),
        "max": _rounded(max(present)),
        "n_cases": len(present),
    }


def _spread(values: NDArray[Any]) -> dict[str, Any]:
    return {
        "median": _rounded(np.median(values, axis=0)),
        "min": _rounded(values.min(0)),
        "max": _rounded(values.max(0)),
    }


def _rounded(value: Any) -> Any:
    """Six significant digits, in plain Python numbers."""
    if isinstance(value, np.ndarray):
        return [_rounded(one) for one in value]
    return float(f"{float(value):.6g}")
