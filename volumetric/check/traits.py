"""Traits: what a case shows that is only telling beside the other cases."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from volumetric.preprocess import orient
from volumetric.volume import Volume

_CHUNK = 1 << 20  # voxels hashed at a time: 4 MB, so that hashing a large scan costs no memory


@dataclass(frozen=True)
class Traits:
    """What the cohort's checks compare; plain values, so that they can be kept as JSON.

    Attributes:
        grid: voxels along canonical axes (D to superior, H anterior, W right).
        spacing_mm: along the same.
        orientation: as stored, e.g. "SAR".
        image_hash: of the voxels, the same whatever the file's format, type or axis order.
        label_like: whether the image looks like a map of labels.
        modality: as the file says; None where it does not.
        unit: of the values; None where unknown.
        levels_hu: of a CT, 1st, 50th and 99th percentile of what is no fill; None of another.
        mask_hash: as image_hash, of the mask; None where there is none, or nothing in it.
        labels: voxels of each label in the mask but background (0); None where there is none.
    """

    grid: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    image_hash: str
    label_like: bool
    modality: str | None = None
    unit: str | None = None
    levels_hu: tuple[float, float, float] | None = None
    mask_hash: str | None = None
    labels: Mapping[int, int] | None = None


def traits_from(values: Mapping[str, Any]) -> Traits:
    """Traits as `dataclasses.asdict` gave them, by way of JSON."""
    fields = dict(values)
    for name in ("grid", "spacing_mm", "levels_hu"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    if fields["labels"] is not None:
        fields["labels"] = {int(label): count for label, count in fields["labels"].items()}
    return Traits(**fields)


def hash_voxels(volume: Volume) -> str:
    """Hash of the values along canonical axes, as float32, and of their shape.

    Equal for the same scan as DICOM and as NIfTI, compressed or not, int16 or float64.
    """
    data = orient(volume).data
    digest = hashlib.blake2b(str(tuple(data.shape)).encode(), digest_size=16)
    flat = data.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        # Adding 0 makes -0.0 and 0.0, which are equal, equal in bytes.
        digest.update((flat[start : start + _CHUNK].to(torch.float32) + 0.0).numpy().data)
    return digest.hexdigest()
