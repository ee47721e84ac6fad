"""Files of named tensors with a few words about them: written whole, looked at without reading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from volumetric.errors import OutputError


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], *, about: Mapping[str, str]
) -> None:
    """Write a .safetensors file, whole or not at all, and its folder if there is none.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, partial, dict(about))
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            "unwritable", f"cannot be written ({error})", "Check folder and free space", path=path
        ) from error


def read_about(path: Path) -> dict[str, str]:
    """What `write_tensors` was told, from the header alone; empty where that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, str] = file.metadata() or {}
            return about
    except (OSError, SafetensorError):
        return {}
