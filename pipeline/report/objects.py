"""Pictures of objects: what was missed, taken for one, or found, cut out of its scan."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.report.drawing import FALSE, FOUND, MISSED, Frame, frame_svg, gutter_mm
from pipeline.report.scores import number_text
from volumetric.boxes import move_boxes
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.figures import Plane, cut_plane, encode_grey, grey_limits, plane_spacing
from volumetric.preprocess import orient
from volumetric.volume import Volume

_SIDE_MM = 64.0  # of what is shown around an object; larger ones have a margin of half their size
_MOST = 4  # objects of a case
_PLANES: tuple[Plane, ...] = ("axial", "coronal")
_AXES: Mapping[Plane, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (1, 0, 2)}
_KINDS = {"missed": "Missed", "false": "False", "found": "Found"}


@dataclass(frozen=True)
class Shown:
    """An object as it is shown: title, what is known of it, and its planes."""

    title: str
    kind: str
    detail: str
    planes: tuple[Markup, ...]


@dataclass(frozen=True)
class ObjectPictures:
    """The objects of a case that are shown, the CSS columns that give them one scale, a note."""

    shown: tuple[Shown, ...]
    columns: str
    note: str


def worst_objects(objects: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Missed ones, the least sure first; then false ones, the surest first; then found ones."""

    def rank(one: Mapping[str, Any]) -> tuple[int, float]:
        score = one["score"] or 0.0
        match one["kind"]:
            case "missed":
                return 0, score
            case "false":
                return 1, -score
            case _:
                return 2, score

    return sorted(objects, key=rank)


def draw_objects(
    case: Case,
    objects: Sequence[Mapping[str, Any]],
    *,
    classes: Mapping[int, str],
    modality: str | None,
    key: str,
) -> ObjectPictures:
    """The worst objects of a case, in axial and coronal planes through the middle of each.

    `key` is unique on the page and names its images there.

    Raises:
        VolumetricError: the scan cannot be read.
    """
    plain = Case(case.id, case.subject, case.fold, case.image, series=case.series)
    source, _ = read_case(plain, classes=classes)
    image = orient(source)
    mapping = np.linalg.inv(image.affine) @ source.affine
    worst = worst_objects(objects)[:_MOST]
    limits = _limits(image, modality)
    total = sum(_side_mm(one, mapping, image) for one in worst)
    shown = tuple(
        _show(one, image, (mapping, limits, total), f"{key}-{number}")
        for number, one in enumerate(worst)
    )
    columns = " ".join(
        f"{_side_mm(one, mapping, image) + 2 * gutter_mm(total):.1f}fr" for one in worst
    )
    rest = len(objects) - len(worst)
    more = f" {rest} more {'is' if rest == 1 else 'are'} not shown." if rest else ""
    black, white = (number_text(limit, "") for limit in limits)
    return ObjectPictures(shown, columns, f"Grey from {black} to {white}.{more}")


def _limits(image: Volume, modality: str | None) -> tuple[float, float]:
    voxels = image.data[0].numpy()
    if modality == "CT":
        # Objects may lie in air, in fat or in bone: as wide as the middle of the scan's values.
        low, high = np.percentile(voxels[voxels > voxels.min()][::7], [2, 98])
        return float(low), float(max(high, low + 350))
    return grey_limits(voxels, np.zeros(voxels.shape, dtype=bool), modality=modality)


def _box(one: Mapping[str, Any], name: str, mapping: NDArray[np.float64]) -> NDArray[np.float64]:
    """A box in voxels of the canonical scan, low corner, then high corner."""
    found: NDArray[np.float64] = move_boxes(np.array([one[name]], dtype=np.float64), mapping)[0]
    return found


def _side_mm(one: Mapping[str, Any], mapping: NDArray[np.float64], image: Volume) -> float:
    box = _box(one, "box_voxels", mapping)
    return max(_SIDE_MM, 1.5 * float(((box[3:] - box[:3]) * image.spacing).max()))


def _show(
    one: Mapping[str, Any],
    image: Volume,
    how: tuple[NDArray[np.float64], tuple[float, float], float],
    key: str,
) -> Shown:
    mapping, limits, total = how
    side = _side_mm(one, mapping, image)
    box = _box(one, "box_voxels", mapping)
    sides = (box[3:] - box[:3]) * image.spacing
    size = " \N{MULTIPLICATION SIGN} ".join(f"{length:.0f}" for length in sides[::-1])
    score = "no box" if one["score"] is None else f"score {one['score']:.2f}"
    overlap = "" if one["overlap"] is None else f", IoU {one['overlap']:.2f}"
    planes = tuple(
        _plane(one, image, plane, (mapping, limits, total, side), f"{key}-{plane}")
        for plane in _PLANES
    )
    return Shown(
        f"{_KINDS[one['kind']]} {one['class']}", one["kind"], f"{score}{overlap}; {size} mm", planes
    )


def _plane(
    one: Mapping[str, Any],
    image: Volume,
    plane: Plane,
    how: tuple[NDArray[np.float64], tuple[float, float], float, float],
    key: str,
) -> Markup:
    mapping, limits, total, side = how
    box = _box(one, "box_voxels", mapping)
    middle = (box[:3] + box[3:]) / 2
    axis, *in_plane = _AXES[plane]
    index = int(np.clip(round(float(middle[axis])), 0, image.shape[axis] - 1))
    grey = cut_plane(image.data[0].numpy(), plane, index)
    pixel = plane_spacing(image.spacing, plane)
    # As it is shown, rows and columns run backwards.
    ends = [(image.shape[a] - 1 - box[3 + a], image.shape[a] - 1 - box[a]) for a in in_plane]
    windows = []
    for (low, high), step, n in zip(ends, pixel, grey.shape, strict=True):
        wanted = min(n, round(side / step))
        start = int(np.clip(round((low + high) / 2 - wanted / 2 + 0.5), 0, n - wanted))
        windows.append((start, wanted))
    (top, rows), (left, columns) = windows
    cut = grey[top : top + rows, left : left + columns]
    file = encode_grey(
        cut, limits, size_mm=(rows * pixel[0], columns * pixel[1]), longest_mm=max(side, total / 3)
    )
    picture = Markup(
        '<image id="{}" width="{}" height="{}" preserveAspectRatio="none" '
        'href="data:image/webp;base64,{}"/>'
    ).format(key, columns, rows, base64.b64encode(file).decode("ascii"))
    marks = []
    for name, style in (
        ("box_voxels", "false" if one["kind"] == "false" else "truth"),
        ("found_voxels", "found"),
    ):
        if one.get(name) is not None:
            marks.append(_rectangle(_box(one, name, mapping), image, in_plane, (top, left), style))
    frame = Frame(plane, index, image.shape[axis], None, cut, None, np.zeros_like(cut, int), pixel)
    label = f"{_KINDS[one['kind']]} {one['class']}, {plane} slice {index + 1}"
    return frame_svg(frame, total, picture + Markup("").join(marks), label=label, bar=True)


def _rectangle(
    box: NDArray[np.float64],
    image: Volume,
    in_plane: Sequence[int],
    start: tuple[int, int],
    style: str,
) -> Markup:
    # Voxel i is the pixel from i to i + 1 of the picture.
    rows, columns = (
        (image.shape[a] - 1 - box[3 + a] + 0.5 - s, image.shape[a] - 1 - box[a] + 0.5 - s)
        for a, s in zip(in_plane, start, strict=True)
    )
    path = f"M{columns[0]:.2f} {rows[0]:.2f}H{columns[1]:.2f}V{rows[1]:.2f}H{columns[0]:.2f}Z"
    if style == "truth":
        return Markup(
            '<path class="halo" d="{0}"/><path class="truth" stroke="{1}" d="{0}"/>'
        ).format(path, MISSED)
    colour = FALSE if style == "false" else FOUND
    return Markup('<path class="halo" d="{0}"/><path class="box" stroke="{1}" d="{0}"/>').format(
        path, colour
    )
