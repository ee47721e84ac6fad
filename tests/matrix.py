"""The matrix: which series a reader meets, what should become of each, and what has.

A verdict is one of three:

right: what was returned is whole true volumes. The inverse of the returned affine takes the true
    centre of every voxel of such a volume to within 0.01 voxel (more only by what the header
    rounds) of an index in bounds that holds its value, and there are no voxels besides. The order
    and direction of the axes are free, and so is a shear: an affine that puts each voxel of a
    tilted stack where it lies is right. Where a folder holds several volumes (two series, two
    echoes, …), one of them, whole, is right too, although it was chosen without a word; so is a
    stack without the one localizer that shared its series, or without an exact duplicate.
refused: an error, whatever its kind and wording, or no volume.
wrong: anything else: voxels at places where they do not lie, values that are not theirs, a slice
    missing, added or merged, and no error. A warning on a log does not change that.

Faulty stacks (missing, irregular, two sizes of pixel, two different slices at one place) have no
regular grid that holds all their voxels where they lie, so whatever is returned for them is wrong.
Axes that are not perpendicular are judged as the header states them. Without positions nothing
can be right, since the true places are nowhere in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from tests.phantom import ORIENTATIONS, SeriesSpec, TrueVolume, Truth, Vector
from tests.series import SYNTAXES

Grid = tuple[NDArray[np.generic], Vector]  # voxels, and the affine from their index to mm in RAS+

_FLIPS: list[tuple[bool, bool, bool]] = [(h, w, d) for h, w, d in product((False, True), repeat=3)]
_TILTS = ("tilt+5", "tilt-5", "tilt+15", "tilt-15", "tilt+25", "tilt-25")
_MR_ONLY = ("echoes", "b-values", "time-points")
# What must become of a faulty series: the code of its refusal; "" where it must be read.
_CODES = {
    "shuffled": "",
    "no-instance-number": "",
    "duplicate-identical": "",
    "localizer": "",
    "missing": "missing-slice",
    "duplicate-different": "duplicate-position",
    "irregular": "irregular-spacing",
    **dict.fromkeys(_TILTS, "gantry-tilt"),
    "mixed-orientation": "mixed-orientation",
    "mixed-pixel-spacing": "mixed-pixel-spacing",
    "non-orthonormal": "non-orthonormal-orientation",
    "no-position": "no-geometry",
    "two-series": "several-series",
    "echoes": "several",
    "b-values": "several",
    "time-points": "several",
}
_FAMILIES = {
    "duplicate-identical": "duplicate slice, identical",
    "duplicate-different": "duplicate slice, different",
    "missing": "missing slice",
    "irregular": "irregular gaps",
    "shuffled": "shuffled order",
    "no-instance-number": "no InstanceNumber",
    "localizer": "localizer in the series",
    "mixed-orientation": "mixed orientation",
    "mixed-pixel-spacing": "mixed pixel spacing",
    "non-orthonormal": "axes not perpendicular",
    "no-position": "no position",
    "two-series": "two series in a folder",
    "echoes": "4-D: echoes",
    "b-values": "4-D: b-values",
    "time-points": "4-D: time points",
    **dict.fromkeys(_TILTS, "gantry tilt"),
}


@dataclass(frozen=True)
class Entry:
    """One series of the matrix.

    Attributes:
        family: the row of the table it counts in.
        spec: what to write.
        expected: what a reader that proves its geometry does with it: "right", "refused", or
            "several": refused with a list of the volumes to choose from.
        code: of the refusal; "" where it must be read, or where no one code is called for.
    """

    family: str
    spec: SeriesSpec
    expected: Literal["right", "refused", "several"] = "right"
    code: str = ""


def list_matrix() -> list[Entry]:
    """All series, each different; those of one family in a row."""
    return [*_list_regular(), *_list_faulty(), *_list_encoded(), *_list_valued()]


def judge(grids: Sequence[Grid], truth: Truth) -> str:
    """Why what was returned is wrong; "" where it is right."""
    if not grids:
        return "nothing was returned"
    left = list(truth.volumes)
    for voxels, affine in grids:
        reasons = [_mismatch(voxels, affine, volume, truth) for volume in left]
        if "" not in reasons:
            return reasons[0] if reasons else "a volume too many was returned"
        del left[reasons.index("")]
    return ""


def judge_resampled(grid: Grid, truth: Truth) -> str:
    """Why a resampled stack is wrong; "" where its values are met to a third of a column's step.

    The smooth part of the values is linear in place: interpolation, linear or cubic, onto the
    returned grid and back to the true centres leaves it as it was. What may differ is the noise,
    and the rim, where a slice's values meet what lies outside: two voxels for a cubic kernel.
    """
    voxels, affine = grid
    [volume] = truth.volumes
    inner = (slice(1, -1), slice(2, -2), slice(2, -2))
    centres, values = volume.positions[inner].reshape(-1, 3), volume.values[inner].ravel()
    index = _index(affine, centres)
    limits = np.array(voxels.shape) - 1
    inside = ((index > -1e-3) & (index < limits + 1e-3)).all(axis=1)
    if inside.mean() < 0.75:
        return f"only {inside.mean():.0%} of the stack lies in it"
    sampled = map_coordinates(
        voxels.astype(np.float64), index[inside].T, order=1, mode="nearest", prefilter=False
    )
    error = np.abs(sampled - values[inside]).max()
    allowed = truth.noise + 0.1 * truth.gradient
    return "" if error <= allowed else f"values are off by up to {error:.1f} of {allowed:.1f}"


def _mismatch(voxels: NDArray[np.generic], affine: Vector, volume: TrueVolume, truth: Truth) -> str:
    if voxels.size != volume.values.size:
        return f"{voxels.shape} voxels for a stack of {volume.values.shape}"
    if voxels.ndim != 3 or affine.shape != (4, 4) or not np.isfinite(affine).all():
        return "no grid in space"
    if abs(np.linalg.det(affine)) < 1e-9:
        return "its affine maps a volume onto a plane"
    index = _index(affine, volume.positions.reshape(-1, 3))
    nearest = np.rint(index).astype(int)
    distance = np.abs(index - nearest).max()
    outside = ((nearest < 0) | (nearest >= voxels.shape)).any(axis=1).mean()
    if outside:
        return f"{outside:.0%} of the true centres lie outside"
    if distance > truth.tolerance_voxels:
        return f"true centres lie up to {distance:.2f} voxel off"
    found = voxels[tuple(nearest.T)].astype(np.float64)
    wrong = ~np.isclose(
        found, volume.values.ravel(), rtol=0, atol=2e-6 * np.abs(volume.values).max()
    )
    return f"{wrong.mean():.0%} of the values are not those at their places" if wrong.any() else ""


def _index(affine: Vector, centres: Vector) -> Vector:
    inverse = np.linalg.inv(affine)
    index: Vector = centres @ inverse[:3, :3].T + inverse[:3, 3]
    return index


# The entries


def _list_regular() -> Iterator[Entry]:
    for number, (orientation, flips) in enumerate(product(ORIENTATIONS, _FLIPS)):
        spec = _spec("regular", number, orientation=orientation, flips=flips)
        yield Entry("regular", spec)
        yield Entry("regular, enhanced", replace(spec, layout="enhanced"))


def _list_faulty() -> Iterator[Entry]:
    for row, (fault, code) in enumerate(_CODES.items()):
        expected: Literal["right", "refused", "several"] = "refused" if code else "right"
        if code.startswith("several"):
            expected = "several"
            code = code if code == "several-series" else ""
        for number, orientation in enumerate(ORIENTATIONS):
            spec = _spec(
                fault, number, orientation=orientation, flips=_FLIPS[(row + 3 * number) % 8]
            )
            yield Entry(_FAMILIES[fault], spec, expected, code)
            if number % 2 == row % 2:
                enhanced = replace(spec, layout="enhanced")
                yield Entry(_FAMILIES[fault], enhanced, expected, code)


def _list_encoded() -> Iterator[Entry]:
    for number, syntax in enumerate(SYNTAXES):
        orientation = ORIENTATIONS[number % 6]
        flips = _FLIPS[number % 8]
        ct = SeriesSpec(syntax=syntax, orientation=orientation, flips=flips, shape=(7, 9, 11))
        mr = replace(ct, modality="MR", stored="uint16", rescale="none", fault="shuffled")
        family = f"encoded: {syntax}"
        yield Entry(family, ct)
        yield Entry(family, mr)
        yield Entry(family, replace(ct, layout="enhanced"))
        yield Entry(family, replace(mr, layout="enhanced"))


def _list_valued() -> Iterator[Entry]:
    plain = SeriesSpec(orientation="oblique-sagittal", flips=(True, True, False))
    mr = replace(plain, modality="MR")
    for layout in ("single", "enhanced"):
        for family, spec in (
            ("rounded positions", replace(plain, decimals=2)),
            ("rounded positions", replace(mr, decimals=3, orientation="oblique-coronal")),
            ("rescale and bits", replace(mr, rescale="scaled")),
            ("rescale and bits", replace(mr, rescale="per-slice")),
            ("rescale and bits", replace(plain, modality="PT", rescale="per-slice")),
            ("rescale and bits", replace(mr, stored="uint12", rescale="none")),
            ("rescale and bits", replace(plain, stored="uint12")),
            ("padding value", replace(plain, padding=True)),
            ("padding value", replace(plain, padding=True, stored="uint16")),
        ):
            yield Entry(family, replace(spec, layout=layout))


def _spec(
    fault: str, number: int, *, orientation: str, flips: tuple[bool, bool, bool]
) -> SeriesSpec:
    """CT and MR by turns, of 5 to 8 slices; only MR has echoes, b-values and time points."""
    spec = SeriesSpec(
        fault=fault, orientation=orientation, flips=flips, shape=(5 + number % 4, 10, 12)
    )
    # By the parity of bits, so that modality goes with no one flip.
    if fault.startswith("tilt") or (number.bit_count() % 2 == 0 and fault not in _MR_ONLY):
        return spec
    return replace(spec, modality="MR", stored="uint16", rescale="none")
