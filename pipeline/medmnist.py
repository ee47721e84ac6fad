"""MedMNIST's files: the scans of one .npz, each as a NIfTI file, proven by their checksums."""

from __future__ import annotations

import csv
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from volumetric.cases import Case, write_cases
from volumetric.errors import DownloadError
from volumetric.io import write_volume
from volumetric.volume import Volume

_SPLITS = ("train", "val", "test")
_LARGEST_BYTES = 4 * 2**30  # of one array


def unpack_arrays(
    archive: Path,
    into: Path,
    *,
    arrays: Mapping[str, str],
    spacing_mm: Sequence[float],
    labels: Sequence[str],
) -> None:
    """Write images/<split>_<number>.nii.gz of every split that the file has, and labels.csv.

    A file that holds the test split, too, gets a manifest of it, test.yaml, to score a model on.
    Arrays are written in their own order, (D, H, W), since MedMNIST does not say how they lie in
    the patient.

    Args:
        archive: the .npz, with `<split>_images` (n, D, H, W) and `<split>_labels` (n, 1).
        into: folder to write.
        arrays: SHA-256 of the bytes of arrays that must be there.
        spacing_mm: along (D, H, W).
        labels: name of each number in the labels.

    Raises:
        DownloadError: damaged, or an array is missing or another one.
    """
    found = _read(archive)
    for name, expected in arrays.items():
        if name not in found or _hash(found[name]) != expected:
            raise DownloadError(
                "checksum-mismatch",
                f"its array {name} is {'another one' if name in found else 'missing'}",
                "Download it again: it is damaged, or of another size",
                path=archive,
            )
    affine = np.array(
        [[0, 0, spacing_mm[2], 0], [0, spacing_mm[1], 0, 0], [spacing_mm[0], 0, 0, 0]]
    )
    (into / "images").mkdir(parents=True)
    rows: list[Case] = []
    for split in _SPLITS:
        images, numbers = found.get(f"{split}_images"), found.get(f"{split}_labels")
        if images is None or numbers is None:
            continue
        for number, image in enumerate(images):
            name = f"{split}_{number:04}"
            path = into / "images" / f"{name}.nii.gz"
            data = torch.from_numpy(np.ascontiguousarray(image))[None]
            write_volume(Volume(data, np.vstack([affine, [0, 0, 0, 1]])), path)
            rows.append(Case(name, name, None, path, label=labels[int(numbers[number, 0])]))
    with (into / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("id", "label"), *((case.id, case.label) for case in rows)])
    _write_test(into, [case for case in rows if case.id.startswith("test_")], labels)


def _write_test(into: Path, cases: Sequence[Case], labels: Sequence[str]) -> None:
    if not cases:
        return
    write_cases(into / "test.csv", cases, root=into)
    about = {"name": "test", "labels": list(labels), "cases": "test.csv"}
    (into / "test.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")


def _read(archive: Path) -> dict[str, NDArray[np.uint8]]:
    try:
        with zipfile.ZipFile(archive) as file:
            if any(member.file_size > _LARGEST_BYTES for member in file.infolist()):
                raise ValueError("an array of more than 4 GiB")
        with np.load(archive, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DownloadError(
            "bad-archive", f"is no sound .npz ({error})", "Download it again", path=archive
        ) from error


def _hash(array: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
