"""Classic DICOM slices with sound tags, each of which a test may replace or remove."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from volumetric.errors import VolumetricError
from volumetric.io.dicom.scan import read_dicom

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
OBLIQUE = (*TURN[0], *TURN[1])
NAME = "Doe^Jane"


def decimals(values):
    return [format_number_as_ds(float(value)) for value in values]


def write_slice(path: Path, stored: np.ndarray, *, position, orientation=AXIAL, **tags) -> None:
    """One MR slice with sound tags; `tags` replace them, and None removes one."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = tags.get("SOPClassUID", MRImageStorage)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    fields = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "PatientName": NAME,
        "Modality": "MR",
        "SeriesInstanceUID": "1.2.3",
        "SeriesDescription": "T1",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "ImagePositionPatient": decimals(position),
        "ImageOrientationPatient": decimals(orientation),
        "PixelSpacing": [0.5, 0.75],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 8 * stored.itemsize,
        "BitsStored": 8 * stored.itemsize,
        "HighBit": tags.get("BitsStored", 8 * stored.itemsize) - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
    }
    for keyword, value in (fields | tags).items():
        if value is not None:
            setattr(dataset, keyword, value)
    # Padded to an even length here, since pydicom warns where it must do so itself.
    dataset.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    dataset["PixelData"].VR = "OW" if stored.itemsize > 1 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_series(
    folder: Path, *, depth=4, orientation=AXIAL, spacing=2.0, origin=(-10, 20, 30), **tags
) -> np.ndarray:
    """A stack along its normal whose file names and InstanceNumber are shuffled; its voxels."""
    random = np.random.default_rng(depth)
    stored = tags.pop("stored", random.integers(0, 1000, (depth, 5, 6), dtype=np.int16))
    normal = np.cross(orientation[:3], orientation[3:])
    for index, name in enumerate(random.permutation(len(stored))):
        write_slice(
            folder / f"{name}.dcm",
            stored[index],
            position=np.array(origin) + index * spacing * normal,
            orientation=orientation,
            **({"InstanceNumber": int(name)} | tags),
        )
    return stored


def edit(folder: Path, name: int, **tags) -> None:
    dataset = dcmread(folder / f"{name}.dcm")
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(folder / f"{name}.dcm")


def write_stack(folder: Path, positions, **tags) -> None:
    """One constant slice a position; its value and its name are its index."""
    for index, position in enumerate(positions):
        stored = np.full((5, 6), index, np.int16)
        write_slice(folder / f"{index}.dcm", stored, position=position, **tags)


def along_z(*heights):
    return [(0, 0, height) for height in heights]


def refusal(path: Path, **options) -> VolumetricError:
    with pytest.raises(VolumetricError) as caught:
        read_dicom(path, **options)
    error = caught.value
    assert error.path
    assert "Doe" not in str(error)
    return error


def pet_tags(**drug) -> dict[str, object]:
    """A PET scan 6,588 s (one half-life of F-18) after an injection of 300 MBq."""
    item = Dataset()
    for keyword, value in {
        "RadiopharmaceuticalStartTime": "100000.00",
        "RadionuclideTotalDose": 3e8,
        "RadionuclideHalfLife": 6588,
        **drug,
    }.items():
        setattr(item, keyword, value)
    return {
        "SOPClassUID": PositronEmissionTomographyImageStorage,
        "Modality": "PT",
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "PatientWeight": 75,
        "SeriesDate": "20240229",
        "SeriesTime": "114948",
        "AcquisitionDate": "20240229",
        "AcquisitionTime": "114948",
        "RescaleSlope": 0.5,
        "RescaleIntercept": 0,
        "RadiopharmaceuticalInformationSequence": Sequence([item]),
    }
