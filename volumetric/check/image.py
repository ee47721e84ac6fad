"""Is an image what an image of its kind looks like? Cheap statistics, and what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.check.hounsfield import BELOW_AIR_HU, check_hounsfield
from volumetric.errors import IntensityError
from volumetric.findings import Finding, Severity
from volumetric.intensity import measured
from volumetric.volume import Volume

_SAMPLES = 20_000  # a share of 1 % is known to 0.1 %
_FEW_VALUES = 16  # an 8-bit image of the narrowest window has more
_MOST_LABELS = 1023  # TotalSegmentator has 117, FreeSurfer's cortical labels go higher
_ANISOTROPIC = 40.0  # cine MR has voxels of 0.3 x 0.3 x 10 mm
_SPIKE = 5.0  # times as many as hold the values just below: what clipping leaves
_FAR_MM = 5_000.0  # the longest scanner tables move 2 m; beyond, a header has another unit


@dataclass(frozen=True, eq=False)
class ImageStats:
    """What was measured of an image's first channel.

    Attributes:
        low: the lowest value, of all voxels and channels; NaN if a voxel is.
        high: the highest, likewise.
        values: up to 20,000 evenly spread values, outside the padding its header names.
        share_padding: of the voxels that the header names padding, or hold the lowest value.
        share_high: of the other voxels, those that hold the highest value.
        is_clipped: whether far more hold it than the values just below, as clipping leaves it,
            and it is not the background.
        n_distinct: different values; only "more than 16" is exact.
        same_as_next: of neighbours along a row, off the lowest value, those that are equal;
            None where the values are not small whole numbers.
        n_blank: slices of one value between slices that have more.
        n_repeated: slices equal to the one before, and not of one value.
    """

    low: float
    high: float
    values: NDArray[np.float64]
    share_padding: float
    share_high: float
    is_clipped: bool
    n_distinct: int
    same_as_next: float | None
    n_blank: int
    n_repeated: int

    @property
    def values_hu(self) -> NDArray[np.float64]:
        """In CT, the values that are measurements: what lies below air is a fill."""
        return self.values[self.values > BELOW_AIR_HU]

    @property
    def levels_hu(self) -> tuple[float, float, float] | None:
        """Their 1st, 50th and 99th percentile; None where all is fill."""
        if not self.values_hu.size:
            return None
        low, middle, high = np.percentile(self.values_hu, (1, 50, 99)).tolist()
        return low, middle, high

    @property
    def label_like(self) -> bool:
        """Whether it is more likely a map of labels than an image."""
        if self.low < 0 or not (self.values == np.round(self.values)).all():
            return False
        few = self.n_distinct <= _FEW_VALUES
        return few or (self.same_as_next is not None and self.same_as_next > 0.8)


def refuse_values(image: Volume, path: Path) -> Iterator[IntensityError]:
    """The reasons why no network can use an image's values, if there are any."""
    low, high = (float(value) for value in torch.aminmax(image.data))
    if not np.isfinite([low, high]).all():
        n_bad = int((~torch.isfinite(image.data)).sum())
        yield IntensityError(
            "not-finite",
            f"has {n_bad} voxel{'s' * (n_bad > 1)} of NaN or infinity",
            "Export the image again, or replace them knowingly",
            path=path,
        )
    elif low == high:
        yield IntensityError(
            "constant-image",
            f"holds the single value {low:g}",
            "Export the image again",
            path=path,
        )


def measure_image(image: Volume) -> ImageStats:
    """Statistics of an image whose values are finite and not all equal."""
    first = image.data[0]
    lows, highs = (end(first.flatten(1), dim=1) for end in (torch.amin, torch.amax))
    low, high = float(lows.min()), float(highs.max())
    drawn = _sample(first)
    # As everywhere: in the stored type, where a padding of float64 has been rounded, too.
    inside = measured(Volume(drawn[None, None, None], image.affine, about=image.about))
    sample = drawn.to(torch.float64).numpy()
    kept = inside.flatten().numpy()
    padding = (sample == low) | ~kept
    values = sample[kept]
    blank = (lows == highs).numpy()
    seen = np.flatnonzero(~blank)
    return ImageStats(
        low=low,
        high=high,
        values=values,
        share_padding=float(padding.mean()),
        share_high=float((sample[~padding] == high).mean()) if not padding.all() else 0.0,
        is_clipped=_is_clipped(first, sample[~padding], high),
        n_distinct=_count_distinct(first, sample),
        same_as_next=_same_as_next(first, sample, low, high),
        n_blank=int(blank[seen[0] : seen[-1]].sum()) if len(seen) else 0,
        n_repeated=_count_repeated(first, blank),
    )


def is_ct(image: Volume, modality: str | None) -> bool:
    """Whether the header, or where it is silent the manifest, says CT."""
    return (image.about.modality or modality) == "CT"


def check_image(image: Volume, stats: ImageStats, *, modality: str | None) -> Iterator[Finding]:
    """What is odd about an image that can be read; `modality` is the manifest's, if it has one."""
    yield from _check_grid(image)
    yield from _check_values(stats)
    header = image.about.modality
    known = {"CT", "MR", "PT", "US"}
    expected = {"PET": "PT"}.get(modality or "", modality)
    if header in known and expected in known and header != expected:
        yield _warning(
            "modality-mismatch",
            f"its header says {header}, the manifest {modality}",
            "Correct `modality` in the manifest, or take the case out: it decides how intensities "
            "are treated",
        )
    if is_ct(image, modality):
        yield from check_hounsfield(image, stats)


def _check_grid(image: Volume) -> Iterator[Finding]:
    spacing = np.array(image.spacing)
    if min(image.shape) < 4:
        yield _warning(
            "few-slices",
            f"has {_by(image.shape)} voxels (D, H, W)",
            "Check that it is the scan and not a localizer or a cut; it is taken as it is",
        )
    if max(image.shape) < 16:
        yield _warning(
            "tiny-volume",
            f"has only {_by(image.shape)} voxels (D, H, W)",
            "Check that it is the scan and not a thumbnail",
        )
    if spacing.max() > _ANISOTROPIC * spacing.min():
        yield _warning(
            "extreme-anisotropy",
            f"has voxels of {_mm(spacing)} mm",
            "Check the spacing in its header",
        )
    if spacing.min() < 0.005 or spacing.max() > 25:
        yield _warning(
            "implausible-spacing",
            f"has voxels of {_mm(spacing)} mm",
            "Check the header's unit: metres or micrometres taken for mm?",
        )
    centre = image.affine @ [*((n - 1) / 2 for n in image.shape), 1]
    away = float(np.linalg.norm(centre[:3]))
    if away > _FAR_MM:
        yield _warning(
            "far-origin",
            f"lies {away / 1000:.3g} m from the origin of its coordinates",
            "Check the header: no scanner reaches so far",
        )


def _check_values(stats: ImageStats) -> Iterator[Finding]:
    if stats.label_like:
        yield _warning(
            "label-map-as-image",
            "holds 0 in every voxel, as a map of labels without any does"
            if stats.n_distinct == 1
            else f"holds {stats.n_distinct} different whole values in patches, as a map of labels "
            "does",
            "Check that the image column does not name the mask",
        )
        return
    # A third and more of one value is a background, such as 0 around a lung cut out of a CT.
    if stats.is_clipped and 0.01 <= stats.share_high < 0.33:
        yield _warning(
            "clipped-intensities",
            f"{stats.share_high:.1%} of its voxels hold exactly the highest value, {stats.high:g}",
            "Export it again without window or saturation, if that was not meant",
        )
    if stats.share_padding > 0.95:
        yield _warning(
            "mostly-padding",
            f"{stats.share_padding:.1%} of its voxels hold padding or the lowest value",
            "Check that the export is whole; crop it if it is",
        )
    yield from _check_slices(stats)
    yield from _check_extremes(stats)


def _check_slices(stats: ImageStats) -> Iterator[Finding]:
    if stats.n_blank:
        yield _warning(
            "blank-slices",
            f"{stats.n_blank} of its slices, between others, hold a single value each",
            "Export it again: slices were lost on the way",
        )
    if stats.n_repeated:
        yield _warning(
            "repeated-slices",
            f"{stats.n_repeated} of its slices repeat the one before",
            "Export it again, or check what filled the gaps",
        )


def _check_extremes(stats: ImageStats) -> Iterator[Finding]:
    if stats.low <= -32_000 and stats.high >= 32_000 and stats.high < 32_768:
        yield _warning(
            "wrapped-intensities",
            f"runs from {stats.low:g} to {stats.high:g}, all of a signed 16-bit number",
            "Check that unsigned values were not stored as signed: bright would become dark",
        )
    if not stats.values.size:
        return
    low, middle, high = np.percentile(stats.values, (0.5, 50, 99.5))
    if high > low and stats.high - middle > 1000 * (high - low):
        yield _warning(
            "hot-voxels",
            f"its highest value, {stats.high:g}, lies far beyond its others, up to {high:g}",
            "Check for damaged voxels: a few such numbers spoil mean and deviation",
        )


def _is_clipped(first: torch.Tensor, values: NDArray[np.float64], high: float) -> bool:
    corners = first[:: _ends(first, 0), :: _ends(first, 1), :: _ends(first, 2)]
    if float((corners == high).to(torch.float32).mean()) >= 0.5:  # the background
        return False
    found, counts = np.unique(values, return_counts=True)
    if not found.size or found[-1] != high:
        return False
    # Labels are no spike: one has as many voxels as another.
    return bool(len(found) > 1 and counts[-1] > _SPIKE * np.median(counts[-11:-1]))


def _ends(first: torch.Tensor, axis: int) -> int:
    return max(1, first.shape[axis] - 1)


def _sample(first: torch.Tensor) -> torch.Tensor:
    """Evenly spread values: the step shares no factor with a slice, or it would draw columns."""
    flat = first.reshape(-1)
    step = max(1, -(-len(flat) // _SAMPLES))
    while gcd(step, first.shape[1] * first.shape[2]) > 1 and step > 1:
        step += 1
    return flat[::step]


def _count_distinct(first: torch.Tensor, sample: NDArray[np.float64]) -> int:
    """Of a few values first: nearly every image shows more than 16 there."""
    for values in (sample[: 50 * _FEW_VALUES], sample):
        found = len(np.unique(values))
        if found > _FEW_VALUES:
            return found
    return len(torch.unique(first))


def _same_as_next(
    first: torch.Tensor, sample: NDArray[np.float64], low: float, high: float
) -> float | None:
    if low < 0 or high > _MOST_LABELS or not (sample == np.round(sample)).all():
        return None
    part = first[:: max(1, first.shape[0] // 32)]  # some slices tell as much as all
    here, there = part[..., :-1], part[..., 1:]
    seen = here != low
    n_seen = int(seen.sum())
    return int(((here == there) & seen).sum()) / n_seen if n_seen else None


def _count_repeated(first: torch.Tensor, blank: NDArray[np.bool_]) -> int:
    some = first[:, ::4, ::4]  # equal slices are equal here too; only these are compared whole
    alike = (some[1:] == some[:-1]).flatten(1).all(1).numpy() & ~blank[1:]
    return sum(torch.equal(first[at], first[at + 1]) for at in np.flatnonzero(alike))


def _by(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(n) for n in shape)


def _mm(spacing: NDArray[np.float64]) -> str:
    return " x ".join(f"{length:.3g}" for length in spacing)


def _warning(code: str, reason: str, remedy: str) -> Finding:
    severity: Severity = "warning"
    return Finding(code, severity, reason, remedy)
