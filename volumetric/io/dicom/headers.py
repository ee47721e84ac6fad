"""DICOM headers: what a file says of each image in it, by itself or by functional groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID

from volumetric.io.dicom.elements import Said, list_macros, read_elements
from volumetric.io.dicom.files import read_header, transfer_syntax
from volumetric.io.dicom.labels import LABELS, dimension_labels, find_labels, read_dimensions
from volumetric.io.dicom.parsing import parsing
from volumetric.io.dicom.slices import Encoding, Numbers, Slice

# Nothing that names a person is ever loaded, so nothing of it can reach an error or a log.
_TAGS: list[str | int] = [
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "ConcatenationUID",
    "DimensionIndexSequence",
    "FrameOfReferenceUID",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "InstanceNumber",
    "LossyImageCompression",
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
    "SUVType",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SharedFunctionalGroupsSequence",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SpecificCharacterSet",
    "StudyInstanceUID",
    "Units",
    *LABELS,
]
# Siemens' number of images in a mosaic, and the tag that says it is Siemens'.
_N_TILES, _N_TILES_CREATOR = 0x0019100A, 0x00190010
_TAGS += [_N_TILES, _N_TILES_CREATOR]
# What a refusal may quote. The standard knows no name of more than 64 letters.
_LONGEST_NAME, _LONGEST_LABEL = 128, 256
_LARGEST_NUMBER = 1e7  # of mm: ten kilometres
# JPEG and near-lossless JPEG-LS: of those that may lose, the ones that nobody uses without.
_LOSSY = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"})
# Pictures that share a series or a folder with a scan, yet are no slices of it.
_PICTURES = frozenset({"LOCALIZER", "SCREEN SAVE"})


def read_slices(file: Path) -> tuple[list[Slice], list[str]]:
    """The slices in a DICOM file, and of what kind each thing in it is that is no slice.

    Localizers, secondary captures, screen saves, segmentations, reports, RT objects and
    directories are none. Frames of enhanced objects are placed by their functional groups
    (PS3.3 C.7.6.16), a frame's own before the shared ones.

    Raises:
        UnreadableFileError: the header is cut, damaged, or lacks a required value.
    """
    with parsing(file):
        dataset, offset, length, cut = read_header(file, _TAGS)
        kind = _kind_apart(dataset)
        if kind is not None:
            return [], [kind]
        if cut:
            raise ValueError("more than an image's header holds")
        said = read_elements([dataset])
        encoding = _encoding(said, transfer_syntax(dataset, length), (offset, length))
        frames, name = dataset.get("PerFrameFunctionalGroupsSequence"), _sop_class(dataset)
        if not frames:
            return [_slice((file, 0), encoding, said, enhanced=False, sop_class=name)], []
        if len(frames) != encoding.n_frames:
            raise ValueError("another number of frames than of their functional groups")
        shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        dimensions = read_dimensions(dataset)
        of_all = {**said, **read_elements(list_macros(shared[0]))}
        slices = []
        for number, groups in enumerate(frames):
            of_one = {**of_all, **read_elements(list_macros(groups))}
            one = _slice((file, number), encoding, of_one, enhanced=True, sop_class=name)
            counted = dimension_labels(dimensions, groups, one.labels)
            slices.append(replace(one, labels={**one.labels, **counted}))
            if one.position is None and not _PICTURES.intersection(one.image_type):
                break  # which alone refuses its series: no need to look at a million others
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
    return str(UID(dataset.get("SOPClassUID") or dataset.file_meta.MediaStorageSOPClassUID).name)[
        :_LONGEST_NAME
    ]


def _encoding(said: Said, syntax: str | None, pixels: tuple[int | None, int | None]) -> Encoding:
    rows, columns, allocated, stored, signed = (
        int(_required(said, keyword))
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
    )
    n_frames = int(said.get("NumberOfFrames", 1))
    if min(rows, columns) < 1 or not 0 < n_frames < 2**31:
        raise ValueError("no pixels, or more than can be counted")
    if signed not in (0, 1):
        raise ValueError("neither signed nor unsigned")
    return Encoding(
        transfer_syntax=syntax,
        photometric=str(_required(said, "PhotometricInterpretation")),
        n_samples=int(said.get("SamplesPerPixel", 1)),
        n_frames=n_frames,
        size=(rows, columns),
        bits=(allocated, stored, int(said.get("HighBit", stored - 1))),
        signed=bool(signed),
        offset=pixels[0],
        length=pixels[1],
    )


def _required(said: Said, keyword: str) -> Any:
    if keyword not in said:
        raise AttributeError(name=keyword)
    return said[keyword]


def _slice(
    place: tuple[Path, int], encoding: Encoding, said: Said, *, enhanced: bool, sop_class: str
) -> Slice:
    get = said.get
    image_type = _values(get("FrameType") or get("ImageType"))
    if get(_N_TILES) is not None and "SIEMENS MR HEADER" in str(get(_N_TILES_CREATOR)):
        image_type += ("MOSAIC",)  # which some exports lose from ImageType
    one = Slice(
        path=place[0],
        frame=place[1],
        encoding=encoding,
        enhanced=enhanced,
        series_uid=_series(get),
        instance_number=_instance_number(get),
        part=_part(get),
        description=str(get("SeriesDescription") or "")[:_LONGEST_NAME],
        study_uid=str(get("StudyInstanceUID") or ""),
        frame_of_reference=str(get("FrameOfReferenceUID") or ""),
        sop_class=sop_class,
        modality=str(get("Modality") or ""),
        image_type=image_type,
        position=_numbers(get("ImagePositionPatient"), 3),
        orientation=_numbers(get("ImageOrientationPatient"), 6),
        pixel_spacing_mm=_numbers(get("PixelSpacing"), 2),
        thickness_mm=_number(get("SliceThickness")),
        slice_spacing_mm=_number(get("SpacingBetweenSlices")),
        rescale=_rescale(get("RescaleSlope"), get("RescaleIntercept")),
        has_lut=get("ModalityLUTSequence") is not None,
        lossy=str(get("LossyImageCompression") or "") == "01" or encoding.transfer_syntax in _LOSSY,
        unit=_unit(get),
        padding=_padding(get("PixelPaddingValue"), get("PixelPaddingRangeLimit"), encoding),
        labels=find_labels(get, image_type),
    )
    _check_names(one)
    return one


def _check_names(one: Slice) -> None:
    """Refuse names too long to be any: cut, two of them might be taken for one."""
    names = (one.series_uid, one.study_uid, one.frame_of_reference, one.modality, one.unit)
    encoding = (one.encoding.photometric, one.encoding.transfer_syntax or "")
    if max(map(len, (*names, *encoding, *one.image_type))) > _LONGEST_NAME:
        raise ValueError("a name of absurd length")
    if max(map(len, one.labels.values()), default=0) > _LONGEST_LABEL:
        raise ValueError("a label of absurd length")


def _series(get: Callable[[str], Any]) -> str:
    """SeriesInstanceUID; where an anonymiser blanked it, what else tells series apart.

    Where nothing does, such files are one series, and their geometry must prove it.
    """
    if get("SeriesInstanceUID"):
        return str(get("SeriesInstanceUID"))
    rest = (get("SeriesNumber"), get("SeriesDescription"))
    return "/".join(str(one) for one in rest if one).replace("[", "(")


def _unit(get: Callable[[str], Any]) -> str:
    """RescaleType or Units, of which PET writes only the second with care; "GML (LBM)" by SUVType.

    An SUV by anything but body weight is another quantity in the same unit.
    """
    first, second = (
        ("Units", "RescaleType") if get("Modality") == "PT" else ("RescaleType", "Units")
    )
    unit, kind = str(get(first) or get(second) or ""), str(get("SUVType") or "BW")
    return f"{unit} ({kind})" if unit == "GML" and kind != "BW" else unit


def _instance_number(get: Callable[[str], Any]) -> int | None:
    number = get("InstanceNumber")
    return int(number) if isinstance(number, int) else None


def _part(get: Callable[[str], Any]) -> tuple[str, int, int | None] | None:
    number, total = get("InConcatenationNumber"), get("InConcatenationTotalNumber")
    if number is None:
        return None
    uid = str(get("ConcatenationUID") or "")
    return uid, int(number), None if total is None else int(total)


def _values(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _numbers(value: Any, count: int) -> Numbers | None:
    if value is None or value == "":
        return None
    numbers = tuple(map(_float, value if count > 1 else [value]))
    sound = len(numbers) == count and all(abs(one) <= _LARGEST_NUMBER for one in numbers)
    return numbers if sound else None


def _number(value: Any) -> float | None:
    """A number that proves nothing: one that is malformed, or several, count as not stated."""
    try:
        numbers = _numbers(value, 1)
    except (TypeError, ValueError):
        return None
    return numbers[0] if numbers else None


def _rescale(slope: Any, intercept: Any) -> tuple[float, float] | None:
    """Both, or neither; one without the other leaves the values unknown: not a number."""
    if slope is None and intercept is None:
        return None
    return (
        math.nan if slope is None else _float(slope),
        math.nan if intercept is None else _float(intercept),
    )


def _float(number: Any) -> float:
    if "_" in str(number):
        raise ValueError("no number of DICOM, though one of Python")
    return float(number)


def _padding(value: Any, limit: Any, encoding: Encoding) -> tuple[int, int] | None:
    """The range of stored values that mean nothing; many files write signed ones as unsigned.

    Its ends lose the bits that are not stored, as the pixels do.
    """
    if not isinstance(value, int):
        return None
    size = 1 << min(encoding.bits[:2])
    ends = [end % size for end in (value, limit if isinstance(limit, int) else value)]
    if encoding.signed:
        ends = [end - size if end >= size // 2 else end for end in ends]
    return min(ends), max(ends)
