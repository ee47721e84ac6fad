"""Pictures of a scan: slices the way a radiologist looks at them, outlines, grey values.

Everything here takes arrays on the canonical axes (D to superior, H to anterior, W to right, see
`volumetric.preprocess.orient`) and returns arrays, corners or bytes; drawing is left to the page.
"""

from __future__ import annotations

import io
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = Literal["axial", "coronal", "sagittal"]
Corner = tuple[int, int]
Kind = TypeVar("Kind", bound=np.generic)
Box = tuple[slice, slice, slice]

PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

# Radiological convention: the patient's right is on the viewer's left, anterior or superior is up,
# and a sagittal slice is seen with the face to the left. Top, right, bottom, left:
EDGES: dict[Plane, tuple[str, str, str, str]] = {
    "axial": ("A", "L", "P", "R"),
    "coronal": ("S", "L", "I", "R"),
    "sagittal": ("S", "P", "I", "A"),
}
# Matplotlib's inferno in ten steps: as even to the eye with any colour vision, and in grey.
HEAT: tuple[tuple[int, int, int], ...] = (
    *((0, 0, 4), (27, 12, 66), (75, 12, 107), (120, 28, 109), (165, 44, 96)),
    *((207, 68, 70), (237, 105, 37), (251, 154, 6), (247, 208, 60), (252, 255, 164)),
)
_OPACITY = 0.8  # of the highest value of a map: what it lies on stays visible
_AXIS: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}


def cut_plane(voxels: NDArray[Kind], plane: Plane, index: int) -> NDArray[Kind]:
    """The slice (rows, columns) as it is shown: canonical voxels (D, H, W), radiological.

    Both axes are reversed, because canonical indices grow to superior, anterior and right while
    the picture's top is superior or anterior and its left is right (or anterior, sagittal).
    """
    rows_columns: NDArray[Kind] = np.take(voxels, index, axis=_AXIS[plane])
    return rows_columns[::-1, ::-1]


def plane_spacing(spacing: tuple[float, float, float], plane: Plane) -> tuple[float, float]:
    """Height and width in mm of one pixel of `cut_plane`, from the spacing of (D, H, W)."""
    rows, columns = (value for axis, value in enumerate(spacing) if axis != _AXIS[plane])
    return rows, columns


def find_slice(
    truth: NDArray[np.generic] | None, prediction: NDArray[np.generic] | None, plane: Plane
) -> tuple[int, int | None]:
    """The slice worth showing, and how many of its voxels differ (None without both masks).

    It is the slice in which most voxels differ; where none differs, or one mask is missing, the
    slice with most labelled voxels; where nothing is labelled, the middle one.
    """
    masks = [mask for mask in (truth, prediction) if mask is not None]
    if not masks:
        raise ValueError("a slice is chosen by masks, and none was given")
    axis = _AXIS[plane]
    others = tuple(other for other in range(3) if other != axis)
    labelled = sum((np.count_nonzero(mask, axis=others) for mask in masks), np.int64(0))
    differing = None
    if truth is not None and prediction is not None:
        differing = np.count_nonzero(truth != prediction, axis=others)
    weight = labelled if differing is None or not differing.any() else differing
    index = int(np.argmax(weight)) if np.any(weight) else masks[0].shape[axis] // 2
    return index, None if differing is None else int(differing[index])


def field_of_view(
    labelled: NDArray[np.bool_], spacing: tuple[float, float, float], *, margin_mm: float = 20.0
) -> Box:
    """The part of (D, H, W) to show: the labelled voxels and a margin; all where none is labelled.

    At least 80 mm along each axis, where the scan has as much, so that the surroundings can be
    recognised.
    """
    if not labelled.any():
        return slice(None), slice(None), slice(None)
    box = []
    for axis, step in enumerate(spacing):
        others = tuple(other for other in range(3) if other != axis)
        where = np.flatnonzero(labelled.any(axis=others))
        missing = max(0.0, 80.0 - step * (where[-1] + 1 - where[0])) / 2
        margin = round(max(margin_mm, missing) / step)
        box.append(slice(max(0, int(where[0]) - margin), int(where[-1]) + 1 + margin))
    return box[0], box[1], box[2]


def grey_limits(
    image: NDArray[np.generic], labelled: NDArray[np.bool_], *, modality: str | None = None
) -> tuple[float, float]:
    """Intensities to show as black and as white.

    CT: centred on the median of the labelled voxels and at least 350 HU wide, since air and bone
    would flatten soft tissue. Else: the 1st and 99.5th percentile.
    """
    finite = image[np.isfinite(image)]
    if finite.size == 0:
        return 0.0, 1.0
    if modality == "CT" and labelled.any():
        low, middle, high = np.nanpercentile(image[labelled].astype(np.float32), [1, 50, 99])
        half = max(350.0, 3.0 * float(high - low)) / 2
        return float(middle) - half, float(middle) + half
    low, high = np.percentile(finite.astype(np.float32), [1, 99.5])
    return float(low), float(high) if high > low else float(low) + 1.0


def encode_grey(
    plane: NDArray[np.generic],
    limits: tuple[float, float],
    *,
    size_mm: tuple[float, float],
    longest_mm: float,
) -> bytes:
    """A WebP file of a slice (rows, columns) with square pixels, interpolated for the eye.

    `size_mm` is the height and width of the slice; `longest_mm`, the longest side of all slices
    shown beside it, becomes 384 pixels, so that neighbours share one scale.
    """
    low, high = limits
    values = np.nan_to_num(plane.astype(np.float32), nan=low, posinf=high, neginf=low)
    scaled = np.clip((values - low) / (high - low), 0, 1) * 255
    picture = Image.fromarray(scaled.astype(np.uint8)).resize(
        _shown_size(size_mm, longest_mm), Image.Resampling.BICUBIC
    )
    return _webp(picture)


def encode_heat(
    plane: NDArray[np.generic], *, size_mm: tuple[float, float], longest_mm: float
) -> bytes:
    """A WebP file of a map (rows, columns) from 0 to 1, to be laid over `encode_grey`'s.

    Colours are `colour_heat`'s; sizes are as there.
    """
    values = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)).resize(
        _shown_size(size_mm, longest_mm), Image.Resampling.BILINEAR
    )
    return _webp(Image.fromarray(colour_heat(np.asarray(values))))


def colour_heat(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Red, green, blue and opacity (rows, columns, 4) of values from 0 to 1.

    The higher, the lighter by `HEAT` and the more opaque; 0 is not seen.
    """
    clipped = np.clip(np.nan_to_num(values.astype(np.float32)), 0, 1)
    steps = np.linspace(0, 1, len(HEAT))
    colours = [np.interp(clipped, steps, [step[part] for step in HEAT]) for part in range(3)]
    rgba = np.stack([*colours, 255 * _OPACITY * clipped], axis=-1)
    return np.rint(rgba).astype(np.uint8)


def encode_small(
    pixels: NDArray[np.uint8], heat: NDArray[np.generic] | None, *, shape: float, longest: int = 240
) -> bytes:
    """A small WebP file of a slice or frame (rows, columns) or (rows, columns, 3).

    `heat` (rows, columns), from 0 to 1, is laid over it; `shape` is the picture's width over its
    height, whose longer one has at most `longest` pixels.
    """
    longest = min(longest, 2 * max(pixels.shape[:2]))
    size = (longest, max(1, round(longest / shape)))
    if shape < 1:
        size = (max(1, round(longest * shape)), longest)
    # The rows of a flipped slice run backwards in memory, which Pillow does not read.
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGBA")
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    if heat is not None:
        values = Image.fromarray(np.ascontiguousarray(heat, dtype=np.float32))
        over = colour_heat(np.asarray(values.resize(size, Image.Resampling.BILINEAR)))
        picture = Image.alpha_composite(picture, Image.fromarray(over))
    return _webp(picture.convert("RGB"))


def _shown_size(size_mm: tuple[float, float], longest_mm: float) -> tuple[int, int]:
    height, width = (max(1, round(384 * side / longest_mm)) for side in size_mm)
    return width, height


def _webp(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=88)
    return file.getvalue()


def trace_outline(mask: NDArray[np.bool_]) -> list[list[Corner]]:
    """Closed loops of (row, column) corners round the true pixels (rows, columns), step by step.

    Loops follow the pixels' edges exactly, clockwise round pixels and anticlockwise round holes;
    pixels that touch in a corner only are parted.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Direction of travel, the neighbour that must be empty, and where the edge starts.
    sides = (
        ((0, 1), padded[:-2, 1:-1], (0, 0)),
        ((1, 0), padded[1:-1, 2:], (0, 1)),
        ((0, -1), padded[2:, 1:-1], (1, 1)),
        ((-1, 0), padded[1:-1, :-2], (1, 0)),
    )
    ahead: dict[Corner, set[Corner]] = {}
    for direction, neighbour, (down, along) in sides:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            ahead.setdefault((row + down, column + along), set()).add(direction)
    loops = []
    while ahead:
        start = next(iter(ahead))
        loops.append(_follow(ahead, start, next(iter(ahead[start]))))
    return loops


def _follow(ahead: dict[Corner, set[Corner]], start: Corner, direction: Corner) -> list[Corner]:
    """One loop from `start`; the edges it uses are taken out of `ahead`."""
    loop = []
    here = start
    while True:
        loop.append(here)
        ahead[here].remove(direction)
        if not ahead[here]:
            del ahead[here]
        here = here[0] + direction[0], here[1] + direction[1]
        choices = ahead.get(here)
        if here == start or not choices:
            return loop
        right = direction[1], -direction[0]
        direction = right if right in choices else next(iter(choices))
