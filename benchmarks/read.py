"""Reading a CT series: volumetric against SimpleITK and MONAI's PydicomReader.

    .venv/bin/python benchmarks/read.py [FOLDER] [--rounds N]

Without a folder, writes 119 slices of 512 x 512 16-bit voxels (explicit little endian) to a
temporary one. All readers run in one process on files that lie in the page cache, one after the
other in each round and in another order each time, after one read of each that does not count and
whose voxels must agree. Ratios are taken round by round; above 1 volumetric is the faster.

The second part reads 40 slices of JPEG 2000 lossless; processor seconds over wall seconds say how
many cores were at work.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, generate_uid

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the encoders are the tests' own

from tests.series import SYNTAXES, encode_frame  # noqa: E402

Reader = Callable[[Path], object]
Spent = tuple[float, float]  # wall and processor seconds


def main() -> None:
    """Print the medians and the ratios of both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="one series, instead of the phantom")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    readers = {"volumetric": read_ours, "SimpleITK": read_simpleitk, "MONAI": read_monai}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or write_ct(Path(temporary) / "ct", n_slices=119)
        report(folder, readers, arguments.rounds)
        folder = write_ct(Path(temporary) / "j2k", n_slices=40, syntax="jpeg-2000")
        del readers["MONAI"]
        report(folder, readers, max(3, arguments.rounds // 3))


def report(folder: Path, readers: Mapping[str, Reader], rounds: int) -> None:
    """Read in rounds; print each reader's median and its time over ours with the range."""
    shape = check_agreement(folder, readers)
    print(f"{folder.name}: {' x '.join(map(str, shape))} voxels, {rounds} rounds")
    spent: dict[str, list[Spent]] = {name: [] for name in readers}
    names = list(readers)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            spent[name].append(measure(readers[name], folder))
    ours = [wall for wall, _ in spent["volumetric"]]
    for name, pairs in spent.items():
        wall = statistics.median(wall for wall, _ in pairs)
        cores = statistics.median(processor / wall for wall, processor in pairs)
        line = f"  {name:12} {wall:7.3f} s wall, {cores:4.2f} cores"
        if name != "volumetric":
            ratios = [theirs / own for (theirs, _), own in zip(pairs, ours, strict=True)]
            line += (
                f", {statistics.median(ratios):5.2f} x volumetric's time"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        print(line, flush=True)


def check_agreement(folder: Path, readers: Mapping[str, Reader]) -> tuple[int, ...]:
    """Size (D, H, W) on which all agree, voxel by voxel; the read that warms the caches."""
    first, *others = [_voxels(read(folder)) for read in readers.values()]
    for name, other in zip(list(readers)[1:], others, strict=True):
        # MONAI follows InstanceNumber, which may run against the slices' normal.
        if not (np.array_equal(first, other) or np.array_equal(first, other[::-1])):
            raise SystemExit(f"{name} reads other voxels than volumetric from {folder}")
    return first.shape


def _voxels(found: object) -> np.ndarray:
    import SimpleITK as sitk

    return found if isinstance(found, np.ndarray) else sitk.GetArrayFromImage(found)


def measure(read: Reader, folder: Path) -> Spent:
    """Wall and processor seconds of one read, all threads counted."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    read(folder)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def read_ours(folder: Path) -> np.ndarray:
    from volumetric import read_volume

    return read_volume(folder).data[0].numpy()


def read_simpleitk(folder: Path) -> object:  # an image, since a copy would cost time
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def read_monai(folder: Path) -> np.ndarray:
    from monai.data import PydicomReader

    reader = PydicomReader()
    voxels, _ = reader.get_data(reader.read(folder))
    return np.asarray(voxels).T


def write_ct(folder: Path, *, n_slices: int, syntax: str = "explicit") -> Path:
    """A body of soft tissue with a spine and lungs in air, noisy as a CT is."""
    folder.mkdir()
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    series = generate_uid()
    for number in range(n_slices):
        wide = 0.8 - 0.2 * abs(number / n_slices - 0.5)
        units = np.where((x / wide) ** 2 + (y / 0.6) ** 2 < 1, 40.0, -1000.0)
        units[((abs(x) - 0.35) / 0.22) ** 2 + (y / 0.35) ** 2 < 1] = -850
        units[x**2 + (y - 0.42) ** 2 < 0.01] = 600
        stored = np.rint(units + random.normal(0, 12, units.shape)).astype(np.int16) + 1024
        dataset = _slice(number, series)
        dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
        if syntax == "explicit":
            dataset.add_new("PixelData", "OW", stored.tobytes())
        else:
            dataset.add_new("PixelData", "OB", encapsulate([encode_frame(stored, syntax)]))
        dataset.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
    return folder


def _slice(number: int, series: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = series, f"{series}.1"
    dataset.FrameOfReferenceUID = f"{series}.2"
    dataset.Modality, dataset.InstanceNumber = "CT", number + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = ["-180.5", "-180.5", f"{-300 + 2.5 * number}"]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.PixelSpacing, dataset.SliceThickness = ["0.70703125", "0.70703125"], "2.5"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "-1024", "HU"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 512
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    return dataset


if __name__ == "__main__":
    main()
