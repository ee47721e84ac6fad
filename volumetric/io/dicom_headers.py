"""DICOM headers: which files of a folder are the slices of one scan."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from volumetric.errors import AmbiguousSeriesError, UnreadableFileError

logger = logging.getLogger(__name__)

# Nothing that names a person is ever loaded, so nothing of it can reach an error or a log.
_TAGS = [
    "BitsStored",
    "Columns",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SOPClassUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SliceThickness",
    "SpacingBetweenSlices",
]
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# Pictures that share a series or a folder with a scan, yet are no slices of it.
_PICTURES = frozenset({"LOCALIZER", "SCREEN SAVE"})
_LISTED = 10


@dataclass(frozen=True)
class SliceHeader:
    """What one file says of its slice; None where it says nothing.

    Attributes:
        path: the file.
        series_uid: SeriesInstanceUID, "" if absent.
        description: SeriesDescription, "" if absent.
        sop_class: name of the SOP class, such as "CT Image Storage".
        modality: "CT", "MR", …; "" if absent.
        image_type: values of ImageType.
        transfer_syntax: UID of the encoding of the pixels; None if the file names none.
        photometric: PhotometricInterpretation.
        n_samples: numbers a pixel.
        n_frames: images in the file.
        size: (rows, columns).
        bits: (BitsStored, HighBit).
        signed: whether stored values are two's complement.
        position: ImagePositionPatient, mm in LPS+.
        orientation: ImageOrientationPatient: along increasing column, then row index.
        pixel_spacing_mm: distance between rows, then between columns.
        thickness_mm: SliceThickness.
        slice_spacing_mm: SpacingBetweenSlices.
        rescale: (slope, intercept) from stored to output values; None if the file has neither.
        has_lut: whether a table, not a slope, gives the output values.
    """

    path: Path
    series_uid: str
    description: str
    sop_class: str
    modality: str
    image_type: tuple[str, ...]
    transfer_syntax: str | None
    photometric: str
    n_samples: int
    n_frames: int
    size: tuple[int, int]
    bits: tuple[int, int]
    signed: bool
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    thickness_mm: float | None
    slice_spacing_mm: float | None
    rescale: tuple[float, float] | None
    has_lut: bool


def read_series(path: Path, *, series_uid: str | None = None) -> list[SliceHeader]:
    """Headers of the slices of the one series in a file or folder, in no particular order.

    A folder is searched recursively without following links. Files that are not DICOM are
    ignored. Objects that are no slices (localizers, secondary captures, screen saves,
    segmentations, reports, RT objects, …) are set apart before series are counted.

    Raises:
        UnreadableFileError: missing, damaged, or without any image series.
        AmbiguousSeriesError: several series and none chosen, or the one chosen is not there.
    """
    files = _list_files(path)
    series: dict[str, list[SliceHeader]] = {}
    apart: Counter[str] = Counter()
    for file in files:
        if not _claims_dicom(file, alone=file == path):
            continue
        with _parsing(file):
            dataset = dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            kind = _kind_apart(dataset)
            if kind is not None:
                apart[kind] += 1
                continue
            header = _slice_header(file, dataset)
        series.setdefault(header.series_uid, []).append(header)
    if apart:
        logger.info("%s: set apart %s", path, _counts(apart))
    if not series:
        raise UnreadableFileError(
            "no-image-series",
            f"holds no DICOM image series ({len(files)} files; set apart: {_counts(apart)})",
            "Name the file or folder with the slices themselves; links inside it are not followed",
            path=path,
        )
    return _choose_series(path, series, series_uid)


def _list_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UnreadableFileError(
            "missing-file", "is neither a file nor a folder", "Check the path", path=path
        )
    # A link may leave the folder, close a loop, or count a slice twice; a pipe blocks for ever.
    # Names with a leading dot are the system's own, such as the "._*" twins macOS leaves.
    files = [
        Path(folder) / name
        for folder, _, names in os.walk(path, onerror=_refuse_folder, followlinks=False)
        for name in names
        if not name.startswith(".")
    ]
    return sorted(file for file in files if file.is_file() and not file.is_symlink())


def _refuse_folder(error: OSError) -> None:
    # Left alone, os.walk passes over a folder it may not enter, and its slices with it.
    raise UnreadableFileError(
        "unreadable-file",
        f"cannot be searched ({error.strerror})",
        "Check its permissions",
        path=error.filename,
    ) from error


@contextmanager
def _parsing(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file makes the parser raise whatever it likes
        raise UnreadableFileError(
            "bad-header",
            f"its header is cut, damaged or lacks a required value ({type(error).__name__})",
            "Copy or export it again",
            path=file,
        ) from error


def _claims_dicom(file: Path, *, alone: bool) -> bool:
    """Whether a file begins as DICOM; refused where only its name, or the caller, says so."""
    try:
        with file.open("rb") as stream:
            is_dicom = stream.read(132)[128:] == b"DICM"
    except OSError as error:
        raise UnreadableFileError(
            "unreadable-file",
            f"cannot be opened ({error.strerror})",
            "Check its permissions",
            path=file,
        ) from error
    # By its name it is a slice: to pass over it would silently shorten the scan.
    if not is_dicom and (alone or file.suffix.lower() in _DICOM_SUFFIXES):
        raise UnreadableFileError(
            "not-dicom",
            "does not begin as a DICOM file does (no 'DICM' after 128 bytes)",
            "Copy it again, or remove it if it is no slice",
            path=file,
        )
    return is_dicom


def _kind_apart(dataset: Dataset) -> str | None:
    """What an object is that is no slice of a scan; None for a slice."""
    name = _sop_class(dataset)
    if "Image Storage" not in name or "Secondary Capture" in name or name.startswith("RT "):
        return name
    return next((kind.lower() for kind in _image_type(dataset) if kind in _PICTURES), None)


def _sop_class(dataset: Dataset) -> str:
    # Anonymisers blank the UID of the object but leave its twin in the file's preamble. A file
    # with neither is cut early, and may have been a slice: the AttributeError refuses it.
    return str(UID(dataset.get("SOPClassUID") or dataset.file_meta.MediaStorageSOPClassUID).name)


def _slice_header(file: Path, dataset: Dataset) -> SliceHeader:
    size, bits_stored = (int(dataset.Rows), int(dataset.Columns)), int(dataset.BitsStored)
    if min(size) < 1:
        raise ValueError("no pixels")
    return SliceHeader(
        path=file,
        # Blanked by an anonymiser: such files are one series, and their geometry must prove it.
        series_uid=str(dataset.get("SeriesInstanceUID") or ""),
        description=str(dataset.get("SeriesDescription") or ""),
        sop_class=_sop_class(dataset),
        modality=str(dataset.get("Modality") or ""),
        image_type=_image_type(dataset),
        transfer_syntax=_transfer_syntax(dataset),
        photometric=str(dataset.PhotometricInterpretation),
        n_samples=int(dataset.get("SamplesPerPixel") or 1),
        n_frames=int(dataset.get("NumberOfFrames") or 1),
        size=size,
        bits=(bits_stored, int(dataset.get("HighBit", bits_stored - 1))),
        signed=bool(dataset.PixelRepresentation),
        position=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing_mm=_numbers(dataset, "PixelSpacing", 2),
        thickness_mm=_number(dataset, "SliceThickness"),
        slice_spacing_mm=_number(dataset, "SpacingBetweenSlices"),
        rescale=_rescale(dataset),
        has_lut="ModalityLUTSequence" in dataset,
    )


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    numbers = tuple(float(number) for number in (value if count > 1 else [value]))
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword, 1)
    return numbers[0] if numbers else None


def _rescale(dataset: Dataset) -> tuple[float, float] | None:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None and intercept is None:
        return None
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def _image_type(dataset: Dataset) -> tuple[str, ...]:
    value = dataset.get("ImageType") or ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _transfer_syntax(dataset: Dataset) -> str | None:
    uid = dataset.file_meta.get("TransferSyntaxUID")
    return str(uid) if uid else None


def _choose_series(
    path: Path, series: dict[str, list[SliceHeader]], series_uid: str | None
) -> list[SliceHeader]:
    if series_uid is not None and series_uid in series:
        return series[series_uid]
    if series_uid is None and len(series) == 1:
        return next(iter(series.values()))
    lines = [_describe(headers) for _, headers in sorted(series.items())]
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    found = "; ".join(lines[:_LISTED]) + more
    if series_uid is None:
        raise AmbiguousSeriesError(
            "several-series",
            f"holds {len(series)} series: {found}",
            "Choose one with series_uid=, or name a folder that holds only one",
            path=path,
        )
    raise AmbiguousSeriesError(
        "series-not-found",
        f"holds no series {series_uid!r}, only: {found}",
        "Choose one of these with series_uid=",
        path=path,
    )


def _describe(headers: Sequence[SliceHeader]) -> str:
    first = headers[0]
    rows, columns = first.size
    count = f"{len(headers)} image{'s' if len(headers) > 1 else ''} of {columns}x{rows}"
    return f"{first.series_uid or '(no UID)'} {first.description!r}, {count}"


def _counts(apart: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(apart.items())) or "nothing"
