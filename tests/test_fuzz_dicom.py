"""Damaged DICOM series: a volume that agrees with the files as they are, or a typed error.

The normal run takes FUZZ_INPUTS = 1,500 damaged series; a longer one by
`FUZZ_INPUTS=100000 FUZZ_SEED=7 .venv/bin/python -m pytest tests/test_fuzz_dicom.py`.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.pixels import get_decoder
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests import slices
from tests.phantom import SeriesSpec
from tests.series import SYNTAXES, can_encode, write_series
from tests.test_dicom_series import pet_tags
from volumetric.errors import VolumetricError
from volumetric.io.dicom.scan import read_dicom
from volumetric.volume import Volume

_N_INPUTS = int(os.environ.get("FUZZ_INPUTS", "1500"))
_SEED = int(os.environ.get("FUZZ_SEED", "0"))
_LONGEST_S = 5.0
_NATIVE = ("implicit", "explicit", "big-endian", "deflated")
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE)


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> list[Path]:
    """A small sound series of each layout and encoding."""
    folders = []
    for layout in ("single", "enhanced"):
        for syntax in SYNTAXES:
            if can_encode(syntax):
                folder = tmp_path_factory.mktemp(f"{layout}-{syntax}")
                spec = SeriesSpec(layout=layout, syntax=syntax, shape=(4, 8, 9), padding=True)
                write_series(folder, spec)
                folders.append(folder)
    folders += [tmp_path_factory.mktemp(f"single-explicit-pet-{number}") for number in range(2)]
    for folder in folders[-2:]:
        stored = np.random.default_rng(0).integers(0, 900, (4, 8, 9), dtype=np.int16)
        slices.write_series(folder, stored=stored, **pet_tags())
    return folders


def damage(content: bytes, draw: random.Random) -> bytes:
    """One to three faults: flipped bits, extreme numbers, pieces lost, doubled, or moved."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        # Most bytes are pixels, most faults that matter are in the header.
        at = draw.randrange(min(len(data), 1800) if draw.random() < 0.7 else len(data))
        kind = draw.randrange(7)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.randrange(256)
        elif kind == 2:
            width = draw.choice((1, 2, 4))
            value = draw.choice(_EXTREMES) & (256**width - 1)
            data[at : at + width] = value.to_bytes(width, draw.choice(("little", "big")))
        elif kind == 3:
            del data[at : at + draw.randint(1, 40)]
        elif kind == 4:
            data[at:at] = data[at : at + draw.randint(1, 40)]
        elif kind == 5:
            data[at:at] = draw.randbytes(draw.randint(1, 8))
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


@dataclass(frozen=True, eq=False)
class Image:
    """One image as pydicom reads it: values, and the place of its pixel (0, 0) in LPS+."""

    values: np.ndarray
    position: np.ndarray
    down: np.ndarray
    right: np.ndarray


def images(file: Path) -> Iterator[Image]:
    """What pydicom makes of a file, placed by equation C.7.6.2.1-1 alone."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(file, force=True)
        # What MONOCHROME and the length of the pixels leave no doubt about.
        dataset.SamplesPerPixel = dataset.get("SamplesPerPixel", 1)
        dataset.HighBit = dataset.get("HighBit", dataset.BitsStored - 1)
        implicit, little = dataset.original_encoding
        native = (
            ImplicitVRLittleEndian
            if implicit
            else ExplicitVRLittleEndian
            if little
            else ExplicitVRBigEndian
        )
        dataset.file_meta.TransferSyntaxUID = dataset.file_meta.get("TransferSyntaxUID", native)
        pixels = dataset.pixel_array
        frames = dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        for number, groups in enumerate(frames):

            def get(macro: str, keyword: str, groups: Dataset = groups) -> list[float] | None:
                for holder in (groups, shared):
                    if holder.get(macro) and keyword in holder[macro].value[0]:
                        return holder[macro].value[0].get(keyword)
                return dataset.get(keyword)

            slope = get("PixelValueTransformationSequence", "RescaleSlope")
            intercept = get("PixelValueTransformationSequence", "RescaleIntercept")
            orientation = np.array(
                get("PlaneOrientationSequence", "ImageOrientationPatient"), float
            )
            spacing = np.array(get("PixelMeasuresSequence", "PixelSpacing"), float)
            stored = pixels[number] if pixels.ndim == 3 else pixels
            yield Image(
                stored.astype(float) * float(1 if slope is None else slope)
                + float(0 if intercept is None else intercept),
                np.array(get("PlanePositionSequence", "ImagePositionPatient"), float),
                orientation[3:] * spacing[0],
                orientation[:3] * spacing[1],
            )


def assert_agrees(volume: Volume, folder: Path) -> None:
    """Every voxel is that of an image lying there, and no image is left out unsaid."""
    back = np.linalg.inv(volume.affine)
    seen = np.zeros(volume.shape[0], bool)
    n_apart = int("set-apart" in {finding.code for finding in volume.about.findings})
    for file in folder.iterdir():
        try:
            found = list(images(file))
        except Exception:
            # pydicom cannot read it: sound only if we did not read it either, and said so.
            n_apart -= 1
            assert n_apart >= 0, f"no oracle for {file}"
            continue
        for image in found:
            rows, columns = np.indices(image.values.shape)
            lps = image.position + rows[..., None] * image.down + columns[..., None] * image.right
            ras = lps.reshape(-1, 3) * [-1, -1, 1]
            index = ras @ back[:3, :3].T + back[:3, 3]
            nearest = np.round(index).astype(int)
            inside = (nearest >= 0).all(1) & (nearest < volume.shape).all(1)
            if not inside.all() or np.abs(index - nearest).max() > 0.1:
                n_apart -= 1
                assert n_apart >= 0, f"{file} lies elsewhere"
                continue
            np.testing.assert_allclose(
                volume.data[0].numpy()[tuple(nearest.T)], image.values.reshape(-1), rtol=1e-5
            )
            seen[nearest[:, 0]] = True
    assert seen.all(), "a slice that no file holds"


def test_damaged_series_are_right_or_refused(series, tmp_path):
    draw = random.Random(_SEED)
    outcomes: Counter[str] = Counter()
    for number in range(_N_INPUTS):
        source = draw.choice(series)
        folder = tmp_path / "damaged"
        shutil.copytree(source, folder)
        file = draw.choice(sorted(folder.iterdir()))
        content = file.read_bytes()
        damaged = damage(content, draw)
        file.write_bytes(damaged)
        started = time.monotonic()
        try:
            if number % 4 == 3:  # what it makes is no volume of the files as they are
                read_dicom(folder, resample_irregular=True)
            volume = read_dicom(folder)
        except VolumetricError as error:
            outcomes[error.code] += 1
            str(error).encode()
        else:
            if _has_oracle(source) and (_is_native(source) or _header(content) != _header(damaged)):
                outcomes["agrees"] += 1
                try:
                    assert_agrees(volume, folder)
                except AssertionError as error:
                    kept = tmp_path / f"wrong-{number}"
                    shutil.copytree(folder, kept)
                    raise AssertionError(f"{kept} ({file.name} of {source.name})") from error
            else:
                outcomes["no oracle"] += 1
        assert time.monotonic() - started < _LONGEST_S, f"{source.name}, input {number}"
        shutil.rmtree(folder)
    assert outcomes["agrees"] > 0.02 * _N_INPUTS
    assert len(outcomes) > 8


def _is_native(source: Path) -> bool:
    return any(source.name.startswith((f"single-{n}", f"enhanced-{n}")) for n in _NATIVE)


def _has_oracle(source: Path) -> bool:
    """Whether pydicom itself decodes this encoding here."""
    syntax = dcmread(next(source.iterdir()), stop_before_pixels=True).file_meta.TransferSyntaxUID
    return bool(get_decoder(syntax).is_available)


def _header(content: bytes) -> bytes:
    """What comes before the pixels; no codec's stream carries a check sum of what follows."""
    return content[: content.rfind(struct.pack("<HH", 0x7FE0, 0x0010))]
