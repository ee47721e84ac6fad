"""Prepared cases as safetensors: mapped into memory, read a patch at a time, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from volumetric.errors import UnreadableFileError
from volumetric.io.tensors import write_tensors
from volumetric.volume import Volume

Triple = tuple[int, int, int]

_IMAGE, _MASK, _INDEX = "image", "mask", "index_"


def write_prepared(
    path: Path,
    image: Volume,
    mask: Volume | None,
    *,
    foreground: Mapping[int, torch.Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Write one prepared case, whole or not at all.

    Args:
        path: file to write, `<case>.safetensors`.
        image: (C, D, H, W): float32 to segment, float16 to label, uint8 of a clip.
        mask: uint8 (1, D, H, W), or None.
        foreground: for each class, int16 or int32 (n, 3) indices of some of its voxels.
        facts: what else belongs to the case (its key, source shape, …), as JSON.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    tensors = {_IMAGE: image.data}
    if mask is not None:
        tensors[_MASK] = mask.data[0]
    tensors |= {f"{_INDEX}{label}": index for label, index in foreground.items()}
    about = {"affine": json.dumps(image.affine.tolist()), "facts": json.dumps(dict(facts))}
    write_tensors(path, tensors, about=about)


@dataclass(frozen=True)
class Prepared:
    """A prepared case on disk; nothing is read until asked for.

    Attributes:
        path: its file.
        n_channels: channels of the image.
        shape: voxels along (D, H, W).
        affine: index to world, rows of a 4x4 matrix.
        labels: classes with at least one voxel.
        has_mask: whether it carries voxel labels.
        facts: what `write_prepared` was given.
    """

    path: Path
    n_channels: int
    shape: Triple
    affine: tuple[tuple[float, ...], ...]
    labels: tuple[int, ...]
    has_mask: bool
    facts: Mapping[str, Any]

    def read_image(self, start: Triple | None = None, size: Triple | None = None) -> torch.Tensor:
        """The image's box (C, *size) from `start`, or all of it; only its bytes are read."""
        return _read(self.path, _IMAGE, start, size)

    def read_mask(self, start: Triple | None = None, size: Triple | None = None) -> torch.Tensor:
        """The labels' box (*size), or all of them."""
        return _read(self.path, _MASK, start, size)

    def read_foreground(self, label: int) -> torch.Tensor:
        """Indices (n, 3) of voxels of one class."""
        return _read(self.path, f"{_INDEX}{label}", None, None)

    def read_volume(self) -> Volume:
        """The whole image with its affine."""
        return Volume(self.read_image(), np.array(self.affine))


def open_prepared(path: Path) -> Prepared:
    """What a prepared file holds, from its header alone.

    Raises:
        UnreadableFileError: missing, damaged, or not a prepared case.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, keys = file.metadata(), list(file.keys())
            n_channels, *shape = file.get_slice(_IMAGE).get_shape()
        return Prepared(
            path=path,
            n_channels=n_channels,
            shape=(shape[0], shape[1], shape[2]),
            affine=tuple(tuple(row) for row in json.loads(metadata["affine"])),
            labels=tuple(sorted(int(k.removeprefix(_INDEX)) for k in keys if k.startswith(_INDEX))),
            has_mask=_MASK in keys,
            facts=json.loads(metadata["facts"]),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(
            "unreadable-prepared",
            f"is no prepared case ({error})",
            "Prepare the case again",
            path=path,
        ) from error


def _read(path: Path, name: str, start: Triple | None, size: Triple | None) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        tensor = file.get_slice(name)
        box: tuple[slice, ...] = ()
        if start is not None and size is not None:
            box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        box = (slice(None),) * (len(tensor.get_shape()) - len(box)) + box
        result: torch.Tensor = tensor[box]
        return result
