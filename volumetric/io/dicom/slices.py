"""DICOM slices: one image of a file, classic or enhanced, as its headers describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Encoding:
    """How a file holds its pixels; the same for all its frames.

    Attributes:
        transfer_syntax: UID of the encoding; None if the file names none.
        photometric: PhotometricInterpretation.
        n_samples: numbers a pixel.
        n_frames: images in the file.
        size: (rows, columns).
        bits: (BitsAllocated, BitsStored, HighBit).
        signed: whether stored values are two's complement.
        offset: byte at which the value of PixelData begins, in the inflated file if it is
            deflated; None if there is no PixelData.
        length: bytes of that value; None where it is encapsulated (undefined length).
    """

    transfer_syntax: str | None
    photometric: str
    n_samples: int
    n_frames: int
    size: tuple[int, int]
    bits: tuple[int, int, int]
    signed: bool
    offset: int | None
    length: int | None


@dataclass(frozen=True)
class Slice:
    """One image of a file: where it lies and what its numbers mean; None where nothing is said.

    Attributes:
        path: the file.
        frame: index of the image in the file, from 0.
        encoding: how the file holds its pixels.
        enhanced: whether functional groups of its own place the frame in its file.
        series_uid: SeriesInstanceUID; if absent, what else names the series; "" if nothing.
        instance_number: InstanceNumber; it orders nothing, but a gap in it tells of a loss.
        part: (UID, number, total or None) of the files that one enhanced object was cut into.
        description: SeriesDescription, "" if absent.
        study_uid: StudyInstanceUID, "" if absent.
        frame_of_reference: FrameOfReferenceUID, "" if absent.
        sop_class: name of the SOP class, such as "CT Image Storage".
        modality: "CT", "MR", …; "" if absent.
        image_type: values of ImageType, or of the frame's FrameType.
        position: ImagePositionPatient, mm in LPS+.
        orientation: ImageOrientationPatient: along increasing column, then row index.
        pixel_spacing_mm: distance between rows, then between columns.
        thickness_mm: SliceThickness.
        slice_spacing_mm: SpacingBetweenSlices.
        rescale: (slope, intercept) from stored to output values; None if neither is there.
        has_lut: whether a table, not a slope, gives the output values.
        lossy: whether the pixels were once compressed with loss.
        unit: RescaleType or Units, "" if absent; of an SUV not by body weight with its kind.
        padding: PixelPaddingValue and PixelPaddingRangeLimit (the value again if absent), stored.
        labels: what may tell this image from another at the same place, keyword to value:
            echo, time point, b-value, …
    """

    path: Path
    frame: int
    encoding: Encoding
    enhanced: bool
    series_uid: str
    instance_number: int | None
    part: tuple[str, int, int | None] | None
    description: str
    study_uid: str
    frame_of_reference: str
    sop_class: str
    modality: str
    image_type: tuple[str, ...]
    position: Numbers | None
    orientation: Numbers | None
    pixel_spacing_mm: Numbers | None
    thickness_mm: float | None
    slice_spacing_mm: float | None
    rescale: tuple[float, float] | None
    has_lut: bool
    lossy: bool
    unit: str
    padding: tuple[int, int] | None
    labels: Mapping[str, str]
