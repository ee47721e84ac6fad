"""A volume in, its segmentation on the same grid out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.errors import ConfigError
from volumetric.inference.window import predict_logits
from volumetric.instances import number_components
from volumetric.model import Model
from volumetric.preprocess import labels_on_grid, prepare
from volumetric.spec import ModelSpec
from volumetric.splitting import N_CHANNELS, group_voxels, number_on_grid
from volumetric.volume import Volume


def segment_volume(
    model: Model[ModelSpec],
    image: Volume,
    *,
    overlap: float | None = None,
    mirror_axes: Sequence[int] | None = None,
) -> Volume:
    """Labels uint8 (1, D, H, W) on the image's own grid: same shape, same affine bit for bit.

    Of a model that tells objects apart those of its class, all alike: see `split_volume`.

    `overlap` and `mirror_axes` default to what the model was exported with.
    """
    spec = model.spec
    prepared, _ = prepare(image, None, spacing=spec.spacing_mm, intensity=spec.intensity)
    logits = predict_logits(
        model.networks,
        prepared.data,
        patch_size=spec.patch_size,
        overlap=spec.overlap if overlap is None else overlap,
        mirror_axes=spec.mirror_axes if mirror_axes is None else mirror_axes,
    )
    if spec.splits:
        logits = logits[:-N_CHANNELS]
    labels = labels_on_grid(Volume(logits, prepared.affine, prepared.kind), image)
    return keep_largest(labels, spec.keep_largest) if spec.keep_largest else labels


def split_volume(model: Model[ModelSpec], image: Volume) -> tuple[Volume, NDArray[np.float64]]:
    """Numbers of objects int32 (1, D, H, W) on the image's own grid, and how sure each is.

    From 1, the surest first; 0 is background. An object too small for the image's grid is none.

    Raises:
        ConfigError: a model that does not tell objects apart.
    """
    spec = model.spec
    if not spec.splits:
        raise ConfigError(
            "other-task", "the model does not tell objects apart", "Use `segment_volume`"
        )
    prepared, _ = prepare(image, None, spacing=spec.spacing_mm, intensity=spec.intensity)
    outputs = predict_logits(
        model.networks, prepared.data, patch_size=spec.patch_size, overlap=spec.overlap
    )
    numbers, scores = group_voxels(
        outputs,
        spacing=spec.spacing_mm,
        apart_mm=spec.apart_mm,
        least_voxels=spec.least_voxels,
    )
    found = prepared.with_data(torch.from_numpy(numbers)[None])
    logits = prepared.with_data(outputs[:-N_CHANNELS])
    placed = number_on_grid(found, labels_on_grid(logits, image)).data
    left = torch.unique(placed)
    left = left[left > 0]
    renumbered = torch.zeros(len(scores) + 1, dtype=torch.int32)
    renumbered[left.long()] = torch.arange(1, len(left) + 1, dtype=torch.int32)
    return image.with_data(renumbered[placed.long()]), scores[left.numpy() - 1]


def keep_largest(labels: Volume, classes: Collection[int]) -> Volume:
    """The labels with only the largest 26-connected component of each of `classes` left."""
    array = labels.data[0].numpy().copy()
    for label in classes:
        array[number_components(array == label) > 1] = 0
    return labels.with_data(torch.from_numpy(array)[None])
