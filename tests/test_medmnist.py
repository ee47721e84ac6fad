"""MedMNIST's files become scans with labels, or are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.fetch import fetch
from pipeline.manifest import find_manifest, load_cases, load_data_set
from volumetric.cases import Case, read_cases, write_cases
from volumetric.errors import DownloadError
from volumetric.io import read_volume

LABELS = ("even", "odd")


def write_npz(path: Path, *, splits: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, n in splits.items():
        arrays[f"{split}_images"] = rng.integers(0, 255, (n, 3, 4, 5), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2)[:, None].astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return arrays


def write_manifest(folder: Path, arrays: dict[str, np.ndarray], **archive: Any) -> Path:
    names = [(s, n) for s in ("train", "val") for n in range(len(arrays[f"{s}_images"]))]
    cases = [
        Case(f"{s}_{n:04}", "x", None, folder / f"images/{s}_{n:04}.nii.gz", label=LABELS[n % 2])
        for s, n in names
    ]
    write_cases(folder / "tiny.csv", cases, root=folder)
    about = {
        "name": "tiny",
        "labels": list(LABELS),
        "cases": "tiny.csv",
        "archive": {
            "url": "https://example.org/tiny.npz",
            "md5": "0" * 32,
            "folder": "tiny",
            "spacing_mm": [3.0, 2.0, 1.0],
            "arrays": {
                name: hashlib.sha256(array.tobytes()).hexdigest()
                for name, array in arrays.items()
                if not name.startswith("test")
            },
            **archive,
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(about))
    return folder / "tiny.yaml"


def test_arrays_become_scans_in_their_own_order(tmp_path: Path) -> None:
    arrays = write_npz(tmp_path / "tiny.npz", splits={"train": 4, "val": 3, "test": 2})
    manifest = write_manifest(tmp_path, arrays)
    data = fetch(manifest, to=tmp_path / "data", source=tmp_path / "tiny.npz")
    for case in load_cases(manifest, root=data):
        split, number = case.id.split("_")
        volume = read_volume(case.image)
        assert volume.spacing == (3, 2, 1)
        assert volume.orientation == "SAR"
        assert (volume.data[0].numpy() == arrays[f"{split}_images"][int(number)]).all()
    test = read_cases(data / "test.csv", root=data)
    assert [(case.id, case.label) for case in test] == [("test_0000", "even"), ("test_0001", "odd")]
    assert load_data_set(data / "test.yaml").labels == LABELS
    again = fetch(manifest, to=tmp_path / "data", source=tmp_path / "tiny.npz")
    assert again == data


def test_without_a_test_split_there_is_no_manifest_of_one(tmp_path: Path) -> None:
    arrays = write_npz(tmp_path / "tiny.npz", splits={"train": 2, "val": 2})
    manifest = write_manifest(tmp_path, arrays)
    data = fetch(manifest, to=tmp_path / "data", source=tmp_path / "tiny.npz")
    assert not (data / "test.yaml").exists()


def test_other_arrays_and_damaged_files_are_refused(tmp_path: Path) -> None:
    arrays = write_npz(tmp_path / "tiny.npz", splits={"train": 2, "val": 2})
    manifest = write_manifest(tmp_path, arrays)
    other = {**arrays, "val_images": arrays["val_images"] + 1}
    np.savez_compressed(tmp_path / "other.npz", **other)
    lacking = {name: array for name, array in arrays.items() if name != "val_labels"}
    np.savez_compressed(tmp_path / "lacking.npz", **lacking)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "tiny.npz").read_bytes()[:-40])
    objects = {**arrays, "extra": np.array([{"a": 1}], dtype=object)}
    np.savez(tmp_path / "pickle.npz", **objects)
    for name, message in (
        ("other", "val_images is another one"),
        ("lacking", "val_labels is missing"),
        ("cut", "no sound .npz"),
        ("pickle", "no sound .npz"),
    ):
        with pytest.raises(DownloadError, match=message):
            fetch(manifest, to=tmp_path / "data", source=tmp_path / f"{name}.npz")
    assert not (tmp_path / "data/tiny").exists()


@pytest.mark.parametrize("name", ["adrenal", "adrenal_28"])
def test_shipped_manifests_match_the_files(name: str, tmp_path: Path) -> None:
    side = 28 if name.endswith("28") else 64
    shared = Path(__file__).parents[2] / f"shared/data/adrenalmnist3d/adrenal_{side}.npz"
    if not shared.exists():
        pytest.skip("AdrenalMNIST3D is not beside this checkout")
    manifest = find_manifest(name)
    archive = load_data_set(manifest).archive
    assert archive is not None
    with np.load(shared) as file:
        for array, expected in archive.arrays.items():
            assert hashlib.sha256(file[array].tobytes()).hexdigest() == expected
        labels = [*file["train_labels"][:, 0], *file["val_labels"][:, 0]]
    cases = load_cases(manifest, root=tmp_path)
    assert [case.label for case in cases] == [("normal", "hyperplasia")[n] for n in labels]
    assert {case.fold for case in cases if case.id.startswith("val")} == {0}
    assert {case.fold for case in cases if case.id.startswith("train")} == {None}
