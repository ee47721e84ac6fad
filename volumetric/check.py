"""Is a case what it claims to be? Read it whole, or refuse with a typed error."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from volumetric.cases import Case
from volumetric.errors import GeometryError, IntensityError, LabelError
from volumetric.io import read_volume
from volumetric.volume import Volume

_SAME_PLACE_MM = 1e-2  # headers in float32 disagree by up to about 1e-4 mm; a real shift is larger


def read_case(case: Case, *, classes: Mapping[int, str]) -> tuple[Volume, Volume | None]:
    """Image (C, D, H, W) and mask (1, D, H, W) uint8 of a case, proven to belong together.

    `classes` maps each label but background (0) to its name.

    Raises:
        UnreadableFileError, UnsupportedError: a file is missing, damaged or of another kind.
        IntensityError: NaN, infinity, or an image of one value.
        GeometryError: mask and image differ in shape or place.
        LabelError: the mask holds fractions, or a label that `classes` does not name.
    """
    image = read_volume(case.image)
    _check_intensities(case, image)
    if case.mask is None:
        return image, None
    mask = read_volume(case.mask)
    _check_same_grid(case, image, mask)
    return image, mask.with_data(_whole_labels(case, mask.data, classes))


def _check_intensities(case: Case, image: Volume) -> None:
    if image.data.is_floating_point() and not torch.isfinite(image.data).all():
        n_bad = int((~torch.isfinite(image.data)).sum())
        raise IntensityError(
            "not-finite",
            f"has {n_bad} voxels that are NaN or infinite",
            "Export the image again, or replace them knowingly",
            path=case.image,
        )
    if image.data.amin() == image.data.amax():
        raise IntensityError(
            "constant-image",
            f"holds the single value {image.data.amin().item()}",
            "Export the image again",
            path=case.image,
        )


def _check_same_grid(case: Case, image: Volume, mask: Volume) -> None:
    if image.shape != mask.shape:
        raise GeometryError(
            "shape-mismatch",
            f"mask has {mask.shape} voxels (D, H, W), its image {image.shape}",
            "Use the mask drawn on this image, or resample it onto the image's grid",
            path=case.mask,
        )
    corners = np.array(
        [(d, h, w, 1) for d in (0, 1) for h in (0, 1) for w in (0, 1)], dtype=np.float64
    ) * [*(n - 1 for n in image.shape), 1]
    apart = np.abs(corners @ (image.affine - mask.affine).T).max()
    if apart > _SAME_PLACE_MM:
        raise GeometryError(
            "affine-mismatch",
            f"mask and image lie up to {apart:.3g} mm apart",
            "Use the mask drawn on this image, or repair the header that is wrong",
            path=case.mask,
        )


def _whole_labels(case: Case, data: torch.Tensor, classes: Mapping[int, str]) -> torch.Tensor:
    found = torch.unique(data).tolist()
    if not all(math.isfinite(value) and value == int(value) for value in found):
        raise LabelError(
            "fractional-labels",
            f"mask holds values that are no whole numbers, e.g. {found[:5]}",
            "Save it as whole labels, without smoothing or resampling",
            path=case.mask,
        )
    unknown = sorted({int(value) for value in found} - {0, *classes})
    if unknown:
        raise LabelError(
            "unknown-labels",
            f"mask holds labels {unknown}; the manifest declares {sorted(classes)}",
            "Correct the mask, or name the labels under `classes` in the manifest",
            path=case.mask,
        )
    return data.to(torch.uint8)
