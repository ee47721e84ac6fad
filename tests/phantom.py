"""A phantom: the slices of a synthetic series, sound or faulty, and the truth about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Along a row and down a column, in LPS+.
_PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
}
# A plane, and the degrees by which it is turned about x, y and z.
_OBLIQUES = {
    "oblique-axial": ("axial", (14, 0, 0)),
    "oblique-sagittal": ("sagittal", (6, -9, 23)),
    "oblique-coronal": ("coronal", (31, 17, -12)),
}
ORIENTATIONS = (*_PLANES, *_OBLIQUES)

_ORIGIN_MM = np.array([-87.36, 41.27, -312.85])
SPACING_MM = (2.5, 0.8, 0.7)
# Stored values rise by `step` a column and by enough a row and a slice that none repeats; noise
# below a step marks each voxel, yet moves no interpolated value by more than itself.
_STEPS = {"int16": 20, "uint16": 20, "uint12": 2}
_LOWEST = {"int16": -20_000, "uint16": 100, "uint12": 100}
_NOISE = 5
_SLICE_STRIDE = 1.6  # times a slice's own range, so that tilted or closer slices do not overlap


@dataclass(frozen=True)
class SeriesSpec:
    """What to write.

    Attributes:
        fault: "regular", "tilt±N" (degrees), "missing", "duplicate-identical",
            "duplicate-different", "irregular", "shuffled", "no-instance-number", "two-series",
            "mixed-orientation", "localizer", "mixed-pixel-spacing", "echoes", "b-values",
            "time-points", "non-orthonormal" or "no-position".
        orientation: one of ORIENTATIONS.
        flips: whether rows, columns, and the order of the slices are turned round. The normal is
            the cross product of the first two and turns with them: no series is mirrored.
        layout: one file a slice, or all frames in one enhanced file.
        syntax: how the file is encoded: one of tests.series.SYNTAXES.
        modality: "CT", "MR" or "PT".
        shape: voxels (D, H, W).
        stored: "int16", "uint16" or "uint12" (16 bits of which 12 are stored).
        rescale: "none", "offset" (slope 1), "scaled", or "per-slice" (slopes that differ).
        decimals: places to which positions are rounded; None for as many as fit 16 characters.
        padding: whether two corners of each slice hold PixelPaddingValue.
    """

    fault: str = "regular"
    orientation: str = "axial"
    flips: tuple[bool, bool, bool] = (False, False, False)
    layout: Literal["single", "enhanced"] = "single"
    syntax: str = "explicit"
    modality: Literal["CT", "MR", "PT"] = "CT"
    shape: tuple[int, int, int] = (6, 10, 12)
    stored: Literal["int16", "uint16", "uint12"] = "int16"
    rescale: Literal["none", "offset", "scaled", "per-slice"] = "offset"
    decimals: int | None = None
    padding: bool = False

    def __str__(self) -> str:
        """Fault, place, layout, encoding and size, and what else is not as in the plainest."""
        flips = "".join(letter for letter, flip in zip("hwd", self.flips, strict=True) if flip)
        parts = [self.fault, self.orientation, flips and f"flip-{flips}", self.layout, self.syntax]
        parts.append("x".join(map(str, self.shape)))
        plain = SeriesSpec()
        for name in ("modality", "stored", "rescale", "decimals", "padding"):
            if getattr(self, name) != getattr(plain, name):
                parts.append(f"{name}={getattr(self, name)}")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, eq=False)
class TrueVolume:
    """Voxels that belong together: centres (D, H, W, 3) in mm RAS+, and their values (D, H, W)."""

    positions: Vector
    values: Vector


@dataclass(frozen=True, eq=False)
class Truth:
    """What a folder holds.

    Attributes:
        volumes: the volumes a reader may return; a faulty stack is one that no regular grid
            holds, so that whatever is returned for it is wrong.
        tolerance_voxels: how far from a voxel's true centre its index may lie.
        gradient: by how much a value changes from one column to the next: the smallest of the
            three gradients of the smooth part of the values, which is linear in place.
        noise: the largest part of a value that is not smooth.
    """

    volumes: tuple[TrueVolume, ...]
    tolerance_voxels: float
    gradient: float
    noise: float


@dataclass(frozen=True, eq=False)
class SliceSpec:
    """One image to write: its place in LPS+, as the header states it, and its pixels."""

    position: Vector
    axes: Vector  # (2, 3): along a row, down a column
    pixel_spacing: tuple[float, float]
    stored: NDArray[np.integer]
    rescale: tuple[float, float] | None
    volume: int | None = 0  # which true volume it is part of; None: of none
    localizer: bool = False
    group: int = 0  # which series, echo, b-value or time point
    series: int = 0
    labels: dict[str, object] = field(default_factory=dict)


# Slices: where they lie and what they hold


def make_slices(spec: SeriesSpec) -> list[SliceSpec]:
    """The images of a series along the normal, then those that make it faulty."""
    stack = _make_stack(spec)
    middle = len(stack) // 2
    one = stack[middle]
    match spec.fault:
        case "two-series" | "echoes" | "b-values" | "time-points":
            return stack + _make_stack(spec, group=1)
        case "duplicate-identical":
            return [*stack, replace(one, volume=None)]
        case "duplicate-different":
            return [*stack, replace(one, stored=one.stored + _NOISE)]
        case "mixed-orientation" | "localizer":
            across = np.stack([one.axes[1], np.cross(*one.axes)])
            is_localizer = spec.fault == "localizer"
            return [*stack, replace(one, axes=across, volume=None, localizer=is_localizer)]
        case "mixed-pixel-spacing":
            wider = one.pixel_spacing[0] * 1.25, one.pixel_spacing[1] * 1.25
            return [*stack[:middle], replace(one, pixel_spacing=wider), *stack[middle + 1 :]]
    return stack


def _make_stack(spec: SeriesSpec, group: int = 0) -> list[SliceSpec]:
    axes = slice_axes(spec)
    normal = np.cross(*axes)
    angle = float(spec.fault.removeprefix("tilt")) if spec.fault.startswith("tilt") else 0.0
    # A tilted gantry: the table moves along a line that is not the slices' normal.
    direction = normal + np.tan(np.radians(angle)) * axes[1]
    origin = _ORIGIN_MM + (90 * normal if group and spec.fault == "two-series" else 0)
    stated = axes.copy()
    if spec.fault == "non-orthonormal":
        stated[1] = np.cos(0.1) * axes[1] + np.sin(0.1) * axes[0]
    slices = []
    for number, height in enumerate(_heights(spec)):
        one = SliceSpec(
            position=origin + height * direction,
            axes=stated,
            pixel_spacing=SPACING_MM[1:],
            stored=np.empty(0, np.int16),
            rescale=_rescale(spec, number),
            volume=group,
            group=group,
            series=group if spec.fault == "two-series" else 0,
            labels=_labels(spec, group),
        )
        # One field through the whole patient; a second volume of it is a little brighter.
        inside = (_centres(one, spec.shape[1:]) - origin) @ np.stack([*axes, normal]).T
        slices.append(replace(one, stored=_stored(inside, spec, number) + _NOISE * group))
    return slices


def slice_axes(spec: SeriesSpec) -> Vector:
    """Unit vectors (2, 3) along a row and down a column, in LPS+."""
    plane, angles = _OBLIQUES.get(spec.orientation, (spec.orientation, (0, 0, 0)))
    axes = np.array(_PLANES[plane], dtype=np.float64)
    for axis, degrees in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        turn, angle = np.eye(3), np.radians(degrees)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        axes = axes @ turn.T
    signs = np.array([-1.0 if flip else 1.0 for flip in spec.flips[:2]])
    return np.asarray(axes * signs[:, None], dtype=np.float64)


def _heights(spec: SeriesSpec) -> Vector:
    heights = np.arange(spec.shape[0], dtype=np.float64) * SPACING_MM[0]
    if spec.fault == "missing":
        return np.delete(heights, spec.shape[0] // 2)
    if spec.fault == "irregular":
        gaps = np.random.default_rng(spec.shape[0]).uniform(0.7, 1.3, spec.shape[0] - 1)
        heights[1:] = SPACING_MM[0] * np.cumsum(gaps)
    return heights


def _rescale(spec: SeriesSpec, number: int) -> tuple[float, float] | None:
    rescales: dict[str, tuple[float, float] | None] = {
        "none": None,
        "offset": (1.0, -1024.0),
        "scaled": (0.375, -5.5),
        "per-slice": (0.5 + 0.125 * number, -3.0 * number),
    }
    return rescales[spec.rescale]


def _labels(spec: SeriesSpec, group: int) -> dict[str, object]:
    labels: dict[str, dict[str, object]] = {
        "echoes": {"EchoTime": (4.5, 9.2)[group], "EchoNumbers": group + 1},
        "b-values": {"DiffusionBValue": (0.0, 800.0)[group]},
        "time-points": {"TemporalPositionIdentifier": group + 1, "NumberOfTemporalPositions": 2},
    }
    return labels.get(spec.fault, {})


def _centres(one: SliceSpec, size: tuple[int, ...]) -> Vector:
    """Centres (H, W, 3) of a slice's voxels in LPS+ (PS3.3 equation C.7.6.2.1-1)."""
    down, along = np.meshgrid(*(np.arange(count) for count in size), indexing="ij")
    centres: Vector = (
        one.position
        + (along * one.pixel_spacing[1])[..., None] * one.axes[0]
        + (down * one.pixel_spacing[0])[..., None] * one.axes[1]
    )
    return centres


def _stored(inside: Vector, spec: SeriesSpec, number: int) -> NDArray[np.integer]:
    _, rows, columns = spec.shape
    step = _STEPS[spec.stored]
    along, down, up = np.moveaxis(inside, -1, 0) / np.array(SPACING_MM[::-1])[:, None, None]
    smooth = step * (along + columns * down + _SLICE_STRIDE * rows * columns * up)
    noise = np.random.default_rng(number).integers(0, min(_NOISE, step), smooth.shape)
    dtype = np.int16 if spec.stored == "int16" else np.uint16
    stored: NDArray[np.integer] = np.rint(smooth + _LOWEST[spec.stored] + noise).astype(dtype)
    if spec.padding:
        stored[0, 0] = stored[-1, -1] = padding_value(spec)
    return stored


def padding_value(spec: SeriesSpec) -> int:
    """The stored value that marks voxels without a measurement."""
    return -32_768 if spec.stored == "int16" else 0


def make_truth(slices: list[SliceSpec], spec: SeriesSpec) -> Truth:
    """What a reader may make of these images."""
    volumes = []
    for volume in sorted({one.volume for one in slices if one.volume is not None}):
        members = [one for one in slices if one.volume == volume]
        positions = np.stack([_centres(one, spec.shape[1:]) for one in members])
        values = [
            one.stored.astype(np.float64) * slope + intercept
            for one in members
            for slope, intercept in [one.rescale or (1.0, 0.0)]
        ]
        volumes.append(TrueVolume(positions * [-1.0, -1.0, 1.0], np.stack(values)))
    rounding_mm = 0.0 if spec.decimals is None else 3**0.5 / 2 * 10.0**-spec.decimals
    slope = 1.0 if slices[0].rescale is None else slices[0].rescale[0]
    return Truth(
        volumes=tuple(volumes),
        tolerance_voxels=0.01 + rounding_mm / min(SPACING_MM),
        gradient=slope * _STEPS[spec.stored],
        noise=slope * _NOISE,
    )
