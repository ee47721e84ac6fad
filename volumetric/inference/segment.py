"""A volume in, its segmentation on the same grid out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from volumetric.inference.window import predict_logits
from volumetric.instances import number_components
from volumetric.model import Model
from volumetric.preprocess import labels_on_grid, prepare
from volumetric.spec import ModelSpec
from volumetric.volume import Volume


def segment_volume(
    model: Model[ModelSpec],
    image: Volume,
    *,
    overlap: float | None = None,
    mirror_axes: Sequence[int] | None = None,
) -> Volume:
    """Labels uint8 (1, D, H, W) on the image's own grid: same shape, same affine bit for bit.

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
    labels = labels_on_grid(Volume(logits, prepared.affine, prepared.kind), image)
    return keep_largest(labels, spec.keep_largest) if spec.keep_largest else labels


def keep_largest(labels: Volume, classes: Collection[int]) -> Volume:
    """The labels with only the largest 26-connected component of each of `classes` left."""
    array = labels.data[0].numpy().copy()
    for label in classes:
        array[number_components(array == label) > 1] = 0
    return labels.with_data(torch.from_numpy(array)[None])
