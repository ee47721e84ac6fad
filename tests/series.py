"""DICOM series whose truth is known: classic and enhanced, in nine encodings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_encoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from tests.phantom import (
    SPACING_MM,
    SeriesSpec,
    SliceSpec,
    Truth,
    Vector,
    make_slices,
    make_truth,
    padding_value,
    slice_axes,
)

_NATIVE = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
SYNTAXES: dict[str, UID] = {
    **_NATIVE,
    "rle": RLELossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
    "htj2k": HTJ2KLossless,
}
_SOP_CLASSES = {
    ("CT", "single"): "1.2.840.10008.5.1.4.1.1.2",
    ("CT", "enhanced"): "1.2.840.10008.5.1.4.1.1.2.1",
    ("MR", "single"): "1.2.840.10008.5.1.4.1.1.4",
    ("MR", "enhanced"): "1.2.840.10008.5.1.4.1.1.4.1",
    ("PT", "single"): "1.2.840.10008.5.1.4.1.1.128",
    ("PT", "enhanced"): "1.2.840.10008.5.1.4.1.1.130",
}
_FRAME_TYPES = {
    "CT": "CTImageFrameTypeSequence",
    "MR": "MRImageFrameTypeSequence",
    "PT": "PETFrameTypeSequence",
}
# By what an enhanced series tells volumes at one place apart, and where that stands.
_DIMENSIONS = {
    "echoes": ("EffectiveEchoTime", "MREchoSequence"),
    "b-values": ("DiffusionBValue", "MRDiffusionSequence"),
    "time-points": ("TemporalPositionIndex", "FrameContentSequence"),
}


def write_series(folder: Path, spec: SeriesSpec) -> Truth:
    """Write the files into `folder`, their names shuffled; what a reader should make of them.

    Raises:
        LookupError: no encoder of this syntax is installed; ask `can_encode` first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slices = make_slices(spec)
    random = np.random.default_rng(len(slices))
    ordered = slices[:: -1 if spec.flips[2] else 1]
    if spec.fault == "shuffled":
        ordered = [ordered[index] for index in random.permutation(len(ordered))]
    if spec.layout == "enhanced":
        for number in {one.series for one in ordered}:
            frames = [one for one in ordered if one.series == number]
            _save(folder / f"{number}.dcm", _enhanced_file(frames, spec), spec)
    else:
        names = random.permutation(len(ordered))
        for index, (name, one) in enumerate(zip(names, ordered, strict=True)):
            _save(folder / f"{name}.dcm", _single_file(one, spec, index), spec)
    return make_truth(slices, spec)


def can_encode(syntax: str) -> bool:
    """Whether a series can be written in this syntax with what is installed."""
    return syntax in _NATIVE or _encoder(syntax) is not None


def encode_frame(frame: NDArray[np.integer], syntax: str) -> bytes:
    """One image (H, W) of 16 bits as a frame of a compressed syntax.

    Raises:
        LookupError: no encoder of this syntax is installed.
    """
    encode = _encoder(syntax)
    if encode is None:
        raise LookupError(f"no encoder of {syntax} is installed")
    return encode(frame)


def _single_file(one: SliceSpec, spec: SeriesSpec, index: int) -> Dataset:
    dataset = _common(spec, one.series, index)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if one.localizer else "AXIAL"]
    if spec.fault != "no-instance-number":
        dataset.InstanceNumber = index + 1
    if spec.modality == "MR":
        dataset.RepetitionTime, dataset.EchoTime = "500", "4.5"
    for part in (_measures(one), _plane(one), _position(one, spec), _transformation(one, spec)):
        dataset.update(part)
    for keyword, value in one.labels.items():
        setattr(dataset, keyword, value)
    _set_pixels(dataset, [one], spec)
    return dataset


def _enhanced_file(frames: Sequence[SliceSpec], spec: SeriesSpec) -> Dataset:
    """All frames in one file, in the order given (PS3.3 C.7.6.16)."""
    dataset = _common(spec, frames[0].series, 0)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(frames)
    _set_dimensions(dataset, spec)
    heights = [float(frame.position @ np.cross(*slice_axes(spec))) for frame in frames]
    ranks = np.unique(np.round(heights, 6), return_inverse=True)[1] + 1
    groups = [
        _frame_groups(frame, int(rank), spec) for frame, rank in zip(frames, ranks, strict=True)
    ]
    # What all frames agree on is said once; but some MR scanners repeat the rescale in each frame.
    shared = Dataset()
    repeated = "PixelValueTransformationSequence" if spec.modality == "MR" else ""
    for element in list(groups[0]):
        if element.keyword != repeated and all(
            element.tag in one and one[element.tag] == element for one in groups
        ):
            shared.add(element)
            for one in groups:
                del one[element.tag]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = groups
    _set_pixels(dataset, frames, spec)
    return dataset


def _set_dimensions(dataset: Dataset, spec: SeriesSpec) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid(entropy_srcs=[str(spec), "dimensions"])
    dataset.DimensionOrganizationSequence = [organization]
    content = "FrameContentSequence"
    pointers = [("StackID", content), ("InStackPositionNumber", content)]
    if spec.fault in _DIMENSIONS:
        pointers.insert(1, _DIMENSIONS[spec.fault])
    dataset.DimensionIndexSequence = [Dataset() for _ in pointers]
    for index, (keyword, group) in zip(dataset.DimensionIndexSequence, pointers, strict=True):
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer = tag_for_keyword(keyword)
        index.FunctionalGroupPointer = tag_for_keyword(group)


def _frame_groups(frame: SliceSpec, rank: int, spec: SeriesSpec) -> Dataset:
    groups, kind = Dataset(), Dataset()
    groups.PixelMeasuresSequence = [_measures(frame)]
    groups.PlaneOrientationSequence = [_plane(frame)]
    groups.PixelValueTransformationSequence = [_transformation(frame, spec)]
    kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if frame.localizer else "VOLUME", "NONE"]
    setattr(groups, _FRAME_TYPES[spec.modality], [kind])
    if spec.fault != "no-position":
        groups.PlanePositionSequence = [_position(frame, spec)]
    if spec.fault != "no-instance-number":
        groups.FrameContentSequence = [_content(frame, rank, spec)]
    item = Dataset()
    if spec.fault == "echoes":
        item.EffectiveEchoTime = frame.labels["EchoTime"]
        groups.MREchoSequence = [item]
    if spec.fault == "b-values":
        item.DiffusionBValue = frame.labels["DiffusionBValue"]
        item.DiffusionDirectionality = "ISOTROPIC" if frame.group else "NONE"
        groups.MRDiffusionSequence = [item]
    return groups


def _content(frame: SliceSpec, rank: int, spec: SeriesSpec) -> Dataset:
    content = Dataset()
    content.StackID = "1"
    content.InStackPositionNumber = rank
    more = [frame.group + 1] if spec.fault in _DIMENSIONS else []
    content.DimensionIndexValues = [1, *more, rank]
    if spec.fault == "time-points":
        content.TemporalPositionIndex = frame.group + 1
    return content


def _common(spec: SeriesSpec, series: int, index: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = _SOP_CLASSES[spec.modality, spec.layout]
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(spec), str(series), str(index)])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[str(spec), "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[str(spec), "series", str(series)])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(spec), "frame"])
    dataset.PatientID, dataset.PatientName = "phantom", "Phantom"
    dataset.Modality, dataset.Manufacturer = spec.modality, "Phantom Works"
    dataset.SeriesNumber, dataset.SeriesDescription = series + 1, f"phantom {series}"
    return dataset


def _measures(one: SliceSpec) -> Dataset:
    part = Dataset()
    part.PixelSpacing = _decimals(one.pixel_spacing)
    part.SliceThickness = format_number_as_ds(SPACING_MM[0])
    part.SpacingBetweenSlices = format_number_as_ds(SPACING_MM[0])
    return part


def _plane(one: SliceSpec) -> Dataset:
    part = Dataset()
    part.ImageOrientationPatient = _decimals(one.axes.ravel().round(6))
    return part


def _position(one: SliceSpec, spec: SeriesSpec) -> Dataset:
    part = Dataset()
    if spec.fault != "no-position":
        position = one.position if spec.decimals is None else one.position.round(spec.decimals)
        part.ImagePositionPatient = _decimals(position)
    return part


def _transformation(one: SliceSpec, spec: SeriesSpec) -> Dataset:
    part = Dataset()
    if one.rescale is not None:
        part.RescaleSlope, part.RescaleIntercept = _decimals(one.rescale)
        part.RescaleType = "HU" if spec.modality == "CT" else "US"
    elif spec.layout == "enhanced":
        part.RescaleSlope, part.RescaleIntercept, part.RescaleType = "1", "0", "US"
    return part


def _decimals(values: tuple[float, ...] | Vector) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def _set_pixels(dataset: Dataset, frames: Sequence[SliceSpec], spec: SeriesSpec) -> None:
    stored = np.stack([frame.stored for frame in frames])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[1:]
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12 if spec.stored == "uint12" else 16
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(spec.stored == "int16")
    if spec.padding:
        dataset.add_new(
            "PixelPaddingValue", "SS" if dataset.PixelRepresentation else "US", padding_value(spec)
        )
    if spec.syntax in _NATIVE:
        order = ">" if spec.syntax == "big-endian" else "<"
        dataset.add_new(
            "PixelData", "OW", stored.astype(stored.dtype.newbyteorder(order)).tobytes()
        )
        return
    encoded = [encode_frame(frame, spec.syntax) for frame in stored]
    dataset.add_new("PixelData", "OB", encapsulate(encoded))
    dataset["PixelData"].is_undefined_length = True


def _save(path: Path, dataset: Dataset, spec: SeriesSpec) -> None:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = SYNTAXES[spec.syntax]
    dataset.save_as(path, enforce_file_format=True)


# Encoders: one frame (H, W) to its bytes. GDCM's where it has one: not our decoders' own kin


def _encoder(syntax: str) -> Callable[[NDArray[np.integer]], bytes] | None:
    if syntax in ("jpeg-2000", "jpeg-lossless") and find_spec("SimpleITK"):
        return lambda frame: _encode_gdcm(frame, syntax)
    if syntax == "rle" or (syntax == "jpeg-ls" and get_encoder(JPEGLSLossless).is_available):
        return lambda frame: _encode_pydicom(frame, SYNTAXES[syntax])
    if syntax in ("jpeg-ls", "htj2k") and find_spec("imagecodecs"):
        return lambda frame: _encode_imagecodecs(frame, syntax)
    return None


def _encode_gdcm(frame: NDArray[np.integer], syntax: str) -> bytes:
    import SimpleITK as sitk

    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "0.dcm")
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(path)
        writer.UseCompressionOn()
        writer.SetCompressor({"jpeg-2000": "JPEG2000", "jpeg-lossless": "JPEG"}[syntax])
        writer.Execute(sitk.GetImageFromArray(frame))
        dataset = dcmread(path)
        if dataset.file_meta.TransferSyntaxUID != SYNTAXES[syntax]:
            raise LookupError(f"GDCM wrote {dataset.file_meta.TransferSyntaxUID.name}")
        encoded: bytes = next(generate_frames(dataset.PixelData, number_of_frames=1))
        return encoded


def _encode_pydicom(frame: NDArray[np.integer], syntax: UID) -> bytes:
    encoded: bytes = next(
        get_encoder(syntax).iter_encode(
            frame,
            rows=frame.shape[0],
            columns=frame.shape[1],
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=16,
            bits_stored=16,
            pixel_representation=int(frame.dtype.kind == "i"),
            photometric_interpretation="MONOCHROME2",
        )
    )
    return encoded


def _encode_imagecodecs(frame: NDArray[np.integer], syntax: str) -> bytes:
    import imagecodecs

    if syntax == "htj2k":
        return bytes(imagecodecs.htj2k_encode(frame, reversible=True))
    # JPEG-LS knows no sign: the bits go in as they are (PS3.5 8.2.3).
    return bytes(imagecodecs.jpegls_encode(frame.view(np.uint16)))
