"""Is a case what it claims to be? Read it whole, or refuse with a typed error; say what is odd."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from volumetric.cases import Case
from volumetric.check.clip import check_clip
from volumetric.check.clips import ClipTraits, check_clips
from volumetric.check.cohort import check_cohort
from volumetric.check.drawing import check_drawing
from volumetric.check.image import ImageStats, check_image, is_ct, measure_image, refuse_values
from volumetric.check.labels import check_label
from volumetric.check.mask import (
    check_mask,
    compare_grids,
    count_labels,
    find_negated,
    reorder,
    whole_labels,
)
from volumetric.check.scans import find_scans
from volumetric.check.traits import Traits, hash_voxels
from volumetric.errors import LabelError, VolumetricError, printable
from volumetric.findings import Finding, as_finding
from volumetric.io import read_volume
from volumetric.io.boxes import read_boxes
from volumetric.io.video import is_video_file
from volumetric.preprocess import orient
from volumetric.volume import Volume

Noticed = list[VolumetricError | Finding]


@dataclass(frozen=True, eq=False)
class Checked:
    """What the doctor saw of one case.

    Attributes:
        case: the case.
        findings: all that was noticed, refusals first.
        error: the first refusal; None for a case that can be used.
        image: as read; None unless the case can be used.
        mask: uint8, on the image's grid; None unless the case can be used and has one.
        traits: what the cohort compares; None unless the case can be used.
    """

    case: Case
    findings: tuple[Finding, ...]
    error: VolumetricError | None
    image: Volume | None
    mask: Volume | None
    traits: Traits | None


def read_case(
    case: Case, *, classes: Mapping[int, str], numbered: bool = False
) -> tuple[Volume, Volume | None]:
    """Image (C, D, H, W) and mask (1, D, H, W) uint8 of a case, proven to belong together.

    `classes` maps each label but background (0) to its name; a mask that is `numbered` holds
    numbers of objects, 1 to 255, instead. The mask is on the image's grid to the bit: one stored
    with its axes in another order is turned, which changes no voxel.

    Raises:
        UnreadableFileError, UnsupportedError: a file is missing, damaged or of another kind.
        IntensityError: NaN, infinity, or an image of one value.
        GeometryError: mask and image differ in shape or place.
        LabelError: the mask holds fractions or a label that `classes` does not name, or is the
            image.
    """
    image = read_volume(case.image, series_uid=case.series)
    for refusal in refuse_values(image, case.image):
        raise refusal
    mask, noticed = _fit_mask(case, image, None if numbered else classes)
    for one in noticed:
        if isinstance(one, VolumetricError):
            raise one
    return image, mask


def check_case(
    case: Case,
    *,
    classes: Mapping[int, str] | None = None,
    modality: str | None = None,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
    numbered: bool = False,
) -> Checked:
    """All that can be said of a case by itself; what `read_case` would raise is among it.

    `classes`, `modality`, `labels` (of whole cases), `multi_label` and `numbered` (whether masks
    hold numbers of objects in place of classes) are what a manifest says;
    without them any whole label will do, and an image may be a map of labels.
    """
    lenient = classes is None and case.mask is None  # nobody said that it is an image
    image, noticed = _read_image(case, lenient=lenient)
    path = str(case.image)
    if labels is not None:
        noticed += (
            one if isinstance(one, VolumetricError) else Finding(*one, path)
            for one in check_label(case, labels, multi_label=multi_label)
        )
    of_voxels = None if numbered else classes
    mask, of_mask = _fit_mask(case, image, of_voxels)
    traits = None
    if image is not None:
        stats = measure_image(image)
        found = check_image(image, stats, modality=modality)
        noticed += (replace(one, path=path) for one in found)
        noticed += _check_boxes(case, image, classes)
        traits = _take_traits(image, mask, stats, modality)
        if mask is not None and traits.labels is not None:
            of_mask += _check_labels(case, image, mask, traits.labels, (of_voxels, modality))
    noticed += of_mask
    error = next((one for one in noticed if isinstance(one, VolumetricError)), None)
    if error is not None:
        image = mask = traits = None
    findings = _findings(case, noticed, lenient=lenient)
    return Checked(case, findings, error, image, mask, traits)


def check_path(path: Path | str) -> list[Finding]:
    """What is odd about a scan or clip, or about all below a folder, by itself and side by side.

    For manifests, threads and a progress bar there is `volumetric check`.

    Raises:
        UnreadableFileError: nothing is there, or nothing that is a scan.
    """
    cases, findings = find_scans(Path(path))
    seen: list[tuple[Case, Traits]] = []
    clips: list[tuple[Case, ClipTraits]] = []
    for case in cases:
        if is_video_file(case.image):
            clip = check_clip(case)
            findings += clip.findings
            clips += [] if clip.traits is None else [(case, clip.traits)]
        else:
            checked = check_case(case)
            findings += checked.findings
            seen += [] if checked.traits is None else [(case, checked.traits)]
    return findings + check_cohort(seen) + check_clips(clips, labels=None)


def _read_image(case: Case, *, lenient: bool) -> tuple[Volume | None, Noticed]:
    try:
        image = read_volume(case.image, series_uid=case.series)
    except VolumetricError as error:
        return None, [error]
    refusals = list(refuse_values(image, case.image))
    if lenient and _is_blank_map(image):
        refusals = []
    return None if refusals else image, [*refusals, *image.about.findings]


def _fit_mask(
    case: Case, image: Volume | None, classes: Mapping[int, str] | None
) -> tuple[Volume | None, Noticed]:
    """The mask on the image's grid, or the reasons why it cannot be used."""
    if case.mask is None:
        return None, []
    try:
        _refuse_same_file(case)
        mask = read_volume(case.mask)
    except VolumetricError as error:
        return None, [error]
    path = str(case.mask)
    noticed: Noticed = [replace(one, path=one.path or path) for one in mask.about.findings]
    if image is not None:
        turned = reorder(mask, image)
        apart = list(compare_grids(image, turned, case.mask))
        if any(isinstance(one, VolumetricError) for one in apart):
            apart = list(find_negated(image, mask, case.mask)) or apart
        elif turned is not mask:
            noticed.append(_turned(mask, image, case.mask))
        noticed += apart
        mask = turned
    if image is not None and _same_values(image, mask):
        noticed.append(_equal(case.mask))
    else:
        try:
            labels = whole_labels(mask.data, classes, case.mask)
        except LabelError as error:
            noticed.append(error)
    if image is None or any(isinstance(one, VolumetricError) for one in noticed):
        return None, noticed
    return Volume(labels, image.affine, mask.kind, mask.about), noticed


def _check_boxes(case: Case, image: Volume, classes: Mapping[int, str] | None) -> Noticed:
    """Why the boxes cannot be used, if there are any, and somebody says what they may hold."""
    if case.boxes is None or classes is None:
        return []
    if case.mask is not None:
        return [
            LabelError(
                "boxes-and-mask",
                "the case has boxes and a mask, which may say different things",
                "Leave one of the two cells empty",
                path=case.boxes,
            )
        ]
    try:
        read_boxes(case.boxes, classes=list(classes.values()), image=image)
    except VolumetricError as error:
        return [error]
    return []


def _refuse_same_file(case: Case) -> None:
    assert case.mask is not None
    try:
        same = case.image.samefile(case.mask)
    except (OSError, ValueError):  # what cannot be found is told by its reader
        return
    if same:
        raise LabelError(
            "image-is-mask",
            "image and mask are one file",
            "Name the mask's own file in the manifest",
            path=case.mask,
        )


def _same_values(image: Volume, mask: Volume) -> bool:
    if image.data.shape != mask.data.shape:
        return False
    some, others = (one.data.reshape(-1)[::1009] for one in (image, mask))
    if not torch.equal(some.to(torch.float32), others.to(torch.float32)):
        return False  # as nearly always, and it costs nothing
    return torch.equal(image.data.to(torch.float32), mask.data.to(torch.float32))


def _equal(path: Path) -> LabelError:
    return LabelError(
        "mask-equals-image",
        "mask holds the same values as its image in every voxel",
        "Put the image's own file in the manifest, or the mask's",
        path=path,
    )


def _is_blank_map(image: Volume) -> bool:
    """Whether it can be a map of labels that holds none: whole numbers, all of them 0."""
    whole = not image.data.is_floating_point() and image.about.modality is None
    return whole and not bool(image.data.any())


def _check_labels(
    case: Case,
    image: Volume,
    mask: Volume,
    counts: Mapping[int, int],
    said: tuple[Mapping[int, str] | None, str | None],
) -> Iterable[Finding]:
    classes, modality = said
    found = list(check_mask(mask, counts=counts, classes=classes))
    if counts and "full-mask" not in {one.code for one in found}:
        found += check_drawing(image, mask, is_ct=is_ct(image, modality))
    return [replace(one, path=str(case.mask)) for one in found]


def _take_traits(
    image: Volume, mask: Volume | None, stats: ImageStats, modality: str | None
) -> Traits:
    canonical = orient(image)
    counts = None if mask is None else count_labels(mask)
    return Traits(
        grid=canonical.shape,
        spacing_mm=canonical.spacing,
        orientation=image.orientation,
        image_hash=hash_voxels(canonical),
        label_like=stats.label_like,
        modality=image.about.modality,
        unit=image.about.unit,
        levels_hu=stats.levels_hu if is_ct(image, modality) else None,
        mask_hash=hash_voxels(mask) if mask is not None and counts else None,
        labels=counts,
    )


def _findings(case: Case, noticed: Noticed, *, lenient: bool) -> tuple[Finding, ...]:
    """All as findings of the case, refusals first; `lenient` where nobody said it is an image."""
    found = [
        as_finding(one, case=case.id)
        if isinstance(one, VolumetricError)
        else replace(one, case=case.id, path=printable(one.path or str(case.image)))
        for one in noticed
    ]
    if lenient:
        found = [
            replace(one, severity="note", remedy="Nothing to do, if it is meant to be one")
            if one.code == "label-map-as-image"
            else one
            for one in found
        ]
    return tuple(sorted(found, key=lambda one: one.severity != "error"))


def _turned(mask: Volume, image: Volume, path: Path) -> Finding:
    return Finding(
        "mask-reordered",
        "note",
        f"mask is stored {mask.orientation}, its image {image.orientation}: its axes were turned",
        "Nothing to do: no voxel changes",
        str(path),
    )
