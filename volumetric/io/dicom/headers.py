"""DICOM headers: what a file says of each image in it, by itself or by functional groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.uid import UID

from volumetric.io.dicom.files import parsing, read_header, transfer_syntax
from volumetric.io.dicom.slices import LABELS, Encoding, Numbers, Slice

# Nothing that names a person is ever loaded, so nothing of it can reach an error or a log.
_TAGS: list[str | int] = [
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "DimensionIndexSequence",
    "FrameOfReferenceUID",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Rows",
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SharedFunctionalGroupsSequence",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SpecificCharacterSet",
    "StudyInstanceUID",
    "Units",
    *LABELS,
]
# Functional groups (PS3.3 C.7.6.16.2, C.8.13.5, C.8.15.3) that are looked into.
_MACROS = (
    "CTImageFrameTypeSequence",
    "CTReconstructionSequence",
    "CardiacSynchronizationSequence",
    "DiffusionGradientDirectionSequence",
    "FrameContentSequence",
    "MRDiffusionSequence",
    "MREchoSequence",
    "MRImageFrameTypeSequence",
    "MRModifierSequence",
    "PETFrameTypeSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "TemporalPositionSequence",
)
# Pictures that share a series or a folder with a scan, yet are no slices of it.
_PICTURES = frozenset({"LOCALIZER", "SCREEN SAVE"})
# Dimensions that are the place itself.
_PLACES = frozenset({"ImagePositionPatient", "InStackPositionNumber", "ImageOrientationPatient"})
_COMPONENTS = {
    "M": "MAGNITUDE",
    "P": "PHASE",
    "R": "REAL",
    "I": "IMAGINARY",
    "MAGNITUDE": "MAGNITUDE",
    "PHASE": "PHASE",
    "REAL": "REAL",
    "IMAGINARY": "IMAGINARY",
}


def read_slices(file: Path) -> tuple[list[Slice], list[str]]:
    """The slices in a DICOM file, and of what kind each thing in it is that is no slice.

    Localizers, secondary captures, screen saves, segmentations, reports, RT objects and
    directories are none. Frames of enhanced objects are placed by their functional groups
    (PS3.3 C.7.6.16), a frame's own before the shared ones.

    Raises:
        UnreadableFileError: the header is cut, damaged, or lacks a required value.
    """
    with parsing(file):
        dataset, offset, length = read_header(file, _TAGS)
        kind = _kind_apart(dataset)
        if kind is not None:
            return [], [kind]
        encoding = _encoding(dataset, offset, length)
        frames = dataset.get("PerFrameFunctionalGroupsSequence")
        if not frames:
            return [_slice(file, 0, encoding, [dataset], enhanced=False)], []
        if len(frames) != encoding.n_frames:
            raise ValueError("another number of frames than of their functional groups")
        shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        dimensions = _dimensions(dataset)
        slices = []
        for number, groups in enumerate(frames):
            parts = [dataset, *_items(shared[0]), *_items(groups)][::-1]
            one = _slice(file, number, encoding, parts, enhanced=True)
            counted = _dimension_labels(dimensions, groups, one.labels)
            slices.append(replace(one, labels={**one.labels, **counted}))
        pictures = [_PICTURES.intersection(one.image_type) for one in slices]
        scan = [one for one, kinds in zip(slices, pictures, strict=True) if not kinds]
        return scan, [min(kinds).lower() for kinds in pictures if kinds]


def _kind_apart(dataset: Dataset) -> str | None:
    """What an object is that is no slice of a scan; None for a slice."""
    name = _sop_class(dataset)
    if name[0].isdigit() and "Rows" in dataset:
        return None  # an unknown or private class of images: to drop it could shorten the scan
    if "Image Storage" not in name or "Secondary Capture" in name or name.startswith("RT "):
        return name
    return next(
        (kind.lower() for kind in _values(dataset.get("ImageType")) if kind in _PICTURES), None
    )


def _sop_class(dataset: Dataset) -> str:
    # Anonymisers blank the UID of the object but leave its twin in the file's preamble. A file
    # with neither is cut early, and may have been a slice: the AttributeError refuses it.
    return str(UID(dataset.get("SOPClassUID") or dataset.file_meta.MediaStorageSOPClassUID).name)


def _encoding(dataset: Dataset, offset: int | None, length: int | None) -> Encoding:
    size, stored = (int(dataset.Rows), int(dataset.Columns)), int(dataset.BitsStored)
    n_frames = dataset.get("NumberOfFrames")
    if min(size) < 1 or (n_frames is not None and int(n_frames) < 1):
        raise ValueError("no pixels")
    if dataset.PixelRepresentation not in (0, 1):
        raise ValueError("neither signed nor unsigned")
    return Encoding(
        transfer_syntax=transfer_syntax(dataset, length),
        photometric=str(dataset.PhotometricInterpretation),
        n_samples=int(dataset.get("SamplesPerPixel") or 1),
        n_frames=int(n_frames or 1),
        size=size,
        bits=(int(dataset.BitsAllocated), stored, int(dataset.get("HighBit", stored - 1))),
        signed=bool(dataset.PixelRepresentation),
        offset=offset,
        length=length,
    )


def _slice(
    file: Path, frame: int, encoding: Encoding, parts: Sequence[Dataset], *, enhanced: bool
) -> Slice:
    """What the first of several data sets to name a thing says of it."""

    def get(keyword: str) -> Any:
        found = (part.get(keyword) for part in parts)
        return next((value for value in found if value not in (None, "")), None)

    image_type = _values(get("FrameType") or get("ImageType"))
    return Slice(
        path=file,
        frame=frame,
        encoding=encoding,
        enhanced=enhanced,
        # Blanked by an anonymiser: such files are one series, and their geometry must prove it.
        series_uid=str(get("SeriesInstanceUID") or ""),
        instance_uid=str(get("SOPInstanceUID") or ""),
        description=str(get("SeriesDescription") or ""),
        study_uid=str(get("StudyInstanceUID") or ""),
        frame_of_reference=str(get("FrameOfReferenceUID") or ""),
        sop_class=_sop_class(parts[-1]),
        modality=str(get("Modality") or ""),
        image_type=image_type,
        position=_numbers(get("ImagePositionPatient"), 3),
        orientation=_numbers(get("ImageOrientationPatient"), 6),
        pixel_spacing_mm=_numbers(get("PixelSpacing"), 2),
        thickness_mm=_number(get("SliceThickness")),
        slice_spacing_mm=_number(get("SpacingBetweenSlices")),
        rescale=_rescale(get("RescaleSlope"), get("RescaleIntercept")),
        has_lut=get("ModalityLUTSequence") is not None,
        unit=str(get("RescaleType") or get("Units") or ""),
        padding=_padding(get("PixelPaddingValue"), get("PixelPaddingRangeLimit"), encoding),
        labels=_labels(get, image_type),
    )


def _items(groups: Dataset) -> list[Dataset]:
    """The items of the macros that place a frame or tell it apart, flat.

    Only these: private sequences, as Philips writes them, hold a second geometry of their own
    whose positions are those of corners.
    """
    items = [groups[keyword].value[0] for keyword in _MACROS if groups.get(keyword)]
    return items + [inner for item in items for inner in _items(item)]


def _labels(get: Callable[[str], Any], image_type: tuple[str, ...]) -> dict[str, str]:
    labels = {keyword: _text(get(keyword)) for keyword in LABELS}
    labels["ImageType"] = "\\".join(image_type)
    component = next((_COMPONENTS[word] for word in image_type[2:] if word in _COMPONENTS), "")
    labels["ComplexImageComponent"] = labels["ComplexImageComponent"] or component
    return {keyword: value for keyword, value in labels.items() if value}


def _dimensions(dataset: Dataset) -> list[str]:
    """What each dimension index counts, by keyword."""
    pointers = [item.DimensionIndexPointer for item in dataset.get("DimensionIndexSequence") or []]
    return [keyword_for_tag(pointer) or str(pointer) for pointer in pointers]


def _dimension_labels(
    dimensions: Sequence[str], groups: Dataset, labels: Mapping[str, str]
) -> dict[str, str]:
    """Indices along dimensions that are neither the place nor known by their value already."""
    content = groups.get("FrameContentSequence") or [Dataset()]
    indices = content[0].get("DimensionIndexValues")
    values = [indices] if isinstance(indices, int) else list(indices or [])
    return {
        keyword: str(value)
        for keyword, value in zip(dimensions, values, strict=False)
        if keyword not in labels and keyword not in _PLACES
    }


def _values(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _text(value: Any) -> str:
    """A label as written in a choice: numbers short, several values apart by a backslash."""
    parts = [value] if isinstance(value, str | bytes) or not _is_several(value) else list(value)
    return "\\".join(
        f"{float(part):.6g}" if isinstance(part, float) else str(part)
        for part in parts
        if part is not None
    ).strip()


def _is_several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _numbers(value: Any, count: int) -> Numbers | None:
    if value is None or value == "":
        return None
    numbers = tuple(float(number) for number in (value if count > 1 else [value]))
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _number(value: Any) -> float | None:
    numbers = _numbers(value, 1)
    return numbers[0] if numbers else None


def _rescale(slope: Any, intercept: Any) -> tuple[float, float] | None:
    """Both, or neither; one without the other leaves the values unknown: not a number."""
    if slope is None and intercept is None:
        return None
    return (
        math.nan if slope is None else float(slope),
        math.nan if intercept is None else float(intercept),
    )


def _padding(value: Any, limit: Any, encoding: Encoding) -> tuple[int, int] | None:
    """The range of stored values that mean nothing; many files write signed ones as unsigned."""
    if not isinstance(value, int):
        return None
    size = 1 << encoding.bits[0]
    ends = [value, limit if isinstance(limit, int) else value]
    if encoding.signed:
        ends = [end - size if end >= size // 2 else end for end in ends]
    return min(ends), max(ends)
