"""Volume: voxels, and where each of them lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.errors import GeometryError
from volumetric.findings import Finding

Affine = NDArray[np.float64]

_AXIS_LETTERS = ("LR", "PA", "IS")


@dataclass(frozen=True)
class About:
    """What a file said of its voxels besides their place; nothing about the patient.

    Attributes:
        modality: DICOM's word: "CT", "MR", "PT", "US", …; None where the file does not say.
        unit: of the values: "HU", "Bq/ml", "SUV"; None where unknown or without unit.
        suv_factor: SUV (body weight) of one unit of the values; None where the header does
            not allow it.
        padding: lowest and highest value that mark voxels which hold no measurement, such as
            those outside a scanner's circle; None if there are none.
        findings: what was noticed while reading: duplicates dropped, a stack resampled, …
    """

    modality: str | None = None
    unit: str | None = None
    suv_factor: float | None = None
    padding: tuple[float, float] | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan or a clip: data with the affine that places it.

    Attributes:
        data: tensor (C, D, H, W), in the dtype it was stored in. D is slices or frames.
        affine: float64 (4, 4), index (d, h, w, 1) to world: mm in RAS+ for a scan,
            (seconds, px, px) for a clip.
        kind: "scan" or "clip".
        about: what its file said besides; carried along by whatever moves the voxels.

    Raises:
        GeometryError: data not 4-D or empty, affine not (4, 4), not finite, or singular.
    """

    data: torch.Tensor
    affine: Affine
    kind: Literal["scan", "clip"] = "scan"
    about: About = About()

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or 0 in self.data.shape:
            raise GeometryError(
                "bad-shape",
                f"a volume needs four non-empty axes (C, D, H, W), got {tuple(self.data.shape)}",
                "Add the missing axes or choose one channel or time point",
            )
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(
                "bad-affine",
                f"the affine is not a finite 4x4 matrix: {affine.tolist()}",
                "Repair the header's orientation and spacing",
            )
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if (spacing <= 0).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-4:
            raise GeometryError(
                "singular-affine",
                f"the affine maps voxels onto a plane or a line: {affine.tolist()}",
                "Repair the header's orientation and spacing",
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (D, H, W)."""
        _, depth, height, width = self.data.shape
        return depth, height, width

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (D, H, W): mm, or (s, px, px)."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction each of (D, H, W) points to: "SAR" is canonical."""
        return "".join(
            _AXIS_LETTERS[axis][int(sign > 0)] for axis, sign in closest_axes(self.affine)
        )

    def with_data(self, data: torch.Tensor) -> Volume:
        """The same place with other voxels, of the same (D, H, W)."""
        if data.shape[-3:] != self.data.shape[-3:]:
            raise GeometryError(
                "bad-shape",
                f"new data has {tuple(data.shape[-3:])} voxels, the volume {self.shape}",
                "Use crop, pad or resample, which move the affine along",
            )
        return replace(self, data=data)


def same_grid(one: Volume, other: Volume, *, within: float) -> bool:
    """Whether as many voxels of both lie in the same places, up to `within` in their affines."""
    return one.shape == other.shape and np.allclose(one.affine, other.affine, atol=within)


def closest_axes(affine: Affine) -> tuple[tuple[int, int], ...]:
    """For each of (D, H, W): the world axis (0 x, 1 y, 2 z) it runs along, and its sign.

    The assignment is one to one and maximises the sum of absolute direction cosines.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    orders = [
        (a, b, c) for a in range(3) for b in range(3) for c in range(3) if {a, b, c} == {0, 1, 2}
    ]
    best = max(orders, key=lambda order: sum(abs(cosines[w, v]) for v, w in enumerate(order)))
    return tuple(
        (world, 1 if cosines[world, voxel] >= 0 else -1) for voxel, world in enumerate(best)
    )
