"""Real small files, made fresh; and real data where a checkout has it beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from pipeline.config import RunConfig, parse_config
from volumetric.cases import Case, write_cases

_DATA = Path(__file__).parents[2] / "shared" / "data"

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
AFFINE.setflags(write=False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            pytest.fail("no CUDA device, and FAIL_WITHOUT_CUDA=1")
        pytest.skip("no CUDA device")


@pytest.fixture
def hippocampus() -> Path:
    folder = _DATA / "hippocampus"
    if not folder.exists():
        pytest.skip("the hippocampus data set is not beside this checkout")
    return folder


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write an array in NIfTI's own order (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


@pytest.fixture
def save_nifti() -> Callable[..., Path]:
    return save


def write_blobs(folder: Path) -> Path:
    """Manifest of eight small scans of two balls, class by brightness, in two folds."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(8):
        shape = rng.integers(20, 26, 3)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
        mask = np.zeros(shape, np.uint8)
        for label, at in ((1, 0.3), (2, 0.7)):
            centre = at * shape + rng.normal(0, 1, 3)
            mask[((grid - centre) ** 2).sum(-1) < 16] = label
        image = (100 + 60 * mask + rng.normal(0, 10, shape)).astype(np.float32)
        name = f"blob_{number}"
        paths = folder / f"images/{name}.nii.gz", folder / f"masks/{name}.nii.gz"
        save(paths[0], image)
        save(paths[1], mask)
        cases.append(Case(name, f"person_{number // 2}", number // 4, *paths))
    write_cases(folder / "blobs.csv", cases, root=folder)
    about = {"name": "blobs", "modality": "MR", "classes": {1: "dim", 2: "bright"}}
    (folder / "blobs.yaml").write_text(yaml.safe_dump({**about, "cases": "blobs.csv"}))
    return folder / "blobs.yaml"


def quick_config(manifest: Path) -> RunConfig:
    """A run that trains in seconds."""
    values = {
        "name": "blobs",
        "device": "cpu",
        "data": {"manifest": str(manifest), "fold": 0},
        "model": {"budget_voxels": 30_000, "base_features": 8, "max_stages": 3},
        "train": {
            "epochs": 2,
            "steps_per_epoch": 20,
            "learning_rate": 0.01,
            "warmup_steps": 5,
            "compile": False,
            "ema": 0.8,
        },
        "evaluate": {"resamples": 500},
    }
    return parse_config(values, path="quick_config")


@pytest.fixture
def blob_set(tmp_path: Path) -> Path:
    return write_blobs(tmp_path / "blobs")


@pytest.fixture
def blob_config(blob_set: Path) -> RunConfig:
    return quick_config(blob_set)


hypothesis.settings.register_profile("volumetric", deadline=None, max_examples=60)
hypothesis.settings.load_profile("volumetric")
