"""Does a mask belong to its image, and does it hold what its manifest declares?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from volumetric.errors import GeometryError, LabelError
from volumetric.findings import Finding
from volumetric.volume import Affine, Volume, closest_axes

_SAME_PLACE_MM = 1e-2  # headers in float32 disagree by up to about 1e-4 mm; a real shift is larger
_HARMLESS = 0.05  # of the smallest spacing: what rounding leaves, and no one can see
_ROUNDING = 1e-3  # a label that was scaled and back differs by less from a whole number
_TINY = 8  # voxels
_LISTED = 10


def reorder(mask: Volume, like: Volume) -> Volume:
    """The mask's voxels with their axes in the order and direction nearest to the image's.

    The two are compared with each other, not each with the world's axes: of a scan at 45 degrees
    two of those are equally near, and rounding would choose.
    """
    beside = np.eye(4)
    beside[:3, :3] = np.linalg.solve(
        like.affine[:3, :3] / like.spacing, mask.affine[:3, :3] / mask.spacing
    )
    along = closest_axes(beside)
    if along == ((0, 1), (1, 1), (2, 1)):
        return mask
    order = [next(v for v, (ours, _) in enumerate(along) if ours == axis) for axis in range(3)]
    affine = mask.affine[:, [*order, 3]].copy()
    data = mask.data.permute(0, *(1 + v for v in order))
    flipped = [axis for axis, v in enumerate(order) if along[v][1] < 0]
    for v in flipped:
        affine[:3, 3] += affine[:3, v] * (data.shape[1 + v] - 1)
        affine[:3, v] *= -1
    return Volume(data.flip([1 + v for v in flipped]).contiguous(), affine, mask.kind, mask.about)


def compare_grids(
    image: Volume, mask: Volume, path: Path | None
) -> Iterator[GeometryError | Finding]:
    """How a mask, its axes already in the image's order, lies beside its image.

    Errors where a voxel could be taken for its neighbour; warnings where the headers disagree
    by less than 5 % of a voxel; nothing where they do by less than 0.01 mm.
    """
    if image.shape != mask.shape or mask.data.shape[0] != 1:
        channels = "" if mask.data.shape[0] == 1 else f" in {mask.data.shape[0]} channels"
        yield GeometryError(
            "shape-mismatch",
            f"mask has {_by(mask.shape)} voxels (D, H, W){channels}, its image {_by(image.shape)}",
            "Use the mask drawn on this image, or resample it onto the image's grid",
            path=path,
        )
        return
    corners = _corners(image.shape)
    apart = _farthest(corners, image.affine - mask.affine)
    if apart <= _SAME_PLACE_MM:
        return
    parts = _parts_apart(image, mask)
    smallest = min(_SAME_PLACE_MM, max(mm for mm, _ in parts.values()))
    for code, (mm, said) in parts.items():
        if mm < smallest:
            continue
        reason = f"{said}, which moves its voxels by up to {mm:.3g} mm"
        if len([0 for mm, _ in parts.values() if mm >= smallest]) > 1:
            reason += f" (all differences together: {apart:.3g} mm)"
        if apart <= _HARMLESS * min(image.spacing):
            yield Finding(
                code,
                "warning",
                f"{reason}, less than 5 % of a voxel",
                "Write both with one header; the image's place is used",
                str(path),
            )
        else:
            yield GeometryError(
                code,
                reason,
                "Use the mask drawn on this image, or repair the header that is wrong",
                path=path,
            )


def find_negated(image: Volume, mask: Volume, path: Path) -> Iterator[GeometryError]:
    """Why a mask, as it is stored, lies elsewhere: its x and y were negated, or not."""
    negated = np.diag([-1.0, -1.0, 1.0, 1.0]) @ mask.affine
    same_shape = image.shape == mask.shape and mask.data.shape[0] == 1
    if same_shape and _farthest(_corners(image.shape), image.affine - negated) <= _SAME_PLACE_MM:
        yield GeometryError(
            "origin-mismatch",
            "mask lies where its image does once x and y are negated: LPS read as RAS, or RAS as "
            "LPS",
            "Negate the first two rows of the affine in the file that is wrong",
            path=path,
        )


def whole_labels(
    data: torch.Tensor, classes: Mapping[int, str] | None, path: Path | None
) -> torch.Tensor:
    """Labels as uint8, proven to be whole and named by `classes` (None: any up to 255).

    Raises:
        LabelError: fractions, or a label that `classes` does not name.
    """
    if data.is_floating_point():
        data = whole_numbers(data, path)
    low, high = (int(value) for value in torch.aminmax(data))
    if low >= 0 and high <= 255:
        data = data.to(torch.uint8)
    # Sorting a large mask is slow: only done where something is wrong already.
    found = _occurring(data) if data.dtype == torch.uint8 else torch.unique(data).tolist()
    allowed = set(range(1, 256)) if classes is None else set(classes)
    unknown = sorted({int(value) for value in found} - {0} - allowed)
    if unknown:
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise LabelError(
            "unknown-labels",
            f"mask holds {_labels(unknown[:_LISTED])}{more}; "
            + (
                "1 to 255 can be used"
                if classes is None
                else f"the manifest declares {_labels(sorted(allowed))}"
            ),
            "Correct the mask, or name the labels under `classes` in the manifest",
            path=path,
        )
    return data


def whole_numbers(data: torch.Tensor, path: Path | None) -> torch.Tensor:
    """Floating-point labels without what scaling and back has left.

    Raises:
        LabelError: fractions, NaN or infinity.
    """
    rounded = data.round()
    whole = (data - rounded).abs() <= _ROUNDING  # not so for NaN and infinity
    if not bool(whole.all()):
        raise LabelError(
            "fractional-labels",
            "mask holds values that are no whole numbers, e.g. "
            + ", ".join(f"{value:.4g}" for value in torch.unique(data[~whole])[:5].tolist()),
            "Save it as whole labels, without smoothing or resampling",
            path=path,
        )
    return rounded


def check_mask(
    mask: Volume, *, counts: Mapping[int, int], classes: Mapping[int, str] | None
) -> Iterator[Finding]:
    """What is odd about a mask's labels; `counts` are the voxels of each."""
    n_labelled = sum(counts.values())
    if n_labelled == 0:
        yield Finding(
            "empty-mask",
            "warning",
            "mask labels no voxel",
            "Check that nothing is there to be outlined",
        )
        return
    yield from _check_classes(counts, classes or {})
    if n_labelled == mask.data.numel() and len(counts) == 1:
        yield Finding(
            "full-mask",
            "warning",
            f"mask holds label {next(iter(counts))} in every voxel",
            "Check that background is stored as 0",
        )


def _check_classes(counts: Mapping[int, int], classes: Mapping[int, str]) -> Iterator[Finding]:
    absent = [f"{name!r} ({label})" for label, name in classes.items() if label not in counts]
    if absent:
        more = f" and {len(absent) - _LISTED} more" if len(absent) > _LISTED else ""
        yield Finding(
            "label-absent",
            "note",
            f"mask holds no voxel of {', '.join(absent[:_LISTED])}{more}",
            "Nothing to do, if the scan shows none",
        )
    for label, name in classes.items():
        n_voxels = counts.get(label, 0)
        if 0 < n_voxels <= _TINY:
            yield Finding(
                "tiny-label",
                "note",
                f"mask holds only {n_voxels} voxel{'s' * (n_voxels > 1)} of {name!r} ({label})",
                "Check for a slip of the brush",
            )


def count_labels(mask: Volume) -> dict[int, int]:
    """Voxels of each label but background (0) in a uint8 mask."""
    counts = torch.bincount(mask.data.reshape(-1), minlength=256).tolist()
    return {label: count for label, count in enumerate(counts) if label and count}


def _occurring(labels: torch.Tensor) -> list[int]:
    counts: list[int] = torch.bincount(labels.reshape(-1), minlength=256).nonzero()[:, 0].tolist()
    return counts


def _labels(numbers: Sequence[int]) -> str:
    return f"label{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _by(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(n) for n in shape)


def _corners(shape: tuple[int, int, int]) -> Affine:
    ends = [(d, h, w, 1) for d in (0, 1) for h in (0, 1) for w in (0, 1)]
    return np.array(ends, dtype=np.float64) * [*(n - 1 for n in shape), 1]


def _farthest(corners: Affine, difference: Affine) -> float:
    """The largest distance, mm, between where two affines put a corner."""
    return float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())


def _parts_apart(image: Volume, mask: Volume) -> dict[str, tuple[float, str]]:
    """Code of each part of an affine: mm that it moves the worst voxel, and what differs."""
    spacings = np.array([image.spacing, mask.spacing])
    cosines = [one.affine[:3, :3] / one.spacing for one in (image, mask)]
    turned = np.zeros((4, 4))
    turned[:3, :3] = (cosines[0] - cosines[1]) * spacings[0]
    angle = np.degrees(np.arccos(np.clip((cosines[0] * cosines[1]).sum(0).min(), -1, 1)))
    shifted = np.linalg.norm(image.affine[:3, 3] - mask.affine[:3, 3])
    in_voxels = np.linalg.solve(image.affine, mask.affine[:, 3] - image.affine[:, 3])[:3]
    is_half = bool((np.abs(np.abs(in_voxels) - 0.5) < _HARMLESS).all())
    stretched = np.linalg.norm((spacings[0] - spacings[1]) * (np.array(image.shape) - 1))
    ours, theirs = (" x ".join(f"{mm:.6g}" for mm in one) for one in spacings)
    return {
        "direction-mismatch": (
            _farthest(_corners(image.shape), turned),
            f"mask is turned by {angle:.3g} degrees against its image",
        ),
        "spacing-mismatch": (
            float(stretched),
            f"mask has voxels of {theirs} mm (D, H, W), its image of {ours}",
        ),
        "origin-mismatch": (
            float(shifted),
            "the first voxels of mask and image differ in place"
            + (" by half a voxel on every axis (a corner taken for a centre)" if is_half else ""),
        ),
    }
