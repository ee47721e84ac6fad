"""The listing of networks: all of them, with the size that others publish."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
from torchvision.models import get_model_weights

from pipeline.models import SECTIONS, list_models
from volumetric.errors import ConfigError
from volumetric.models.backbones import BACKBONES
from volumetric.network_names import VolumeNetwork
from volumetric.spec import ModelSpec

NAMES = {
    "segmentation": [kind for kind in get_args(get_type_hints(ModelSpec)["kind"]) for _ in "cg"],
    "volumes": ["small_cnn3d", "plain_cnn3d", *get_args(VolumeNetwork)],
    "detection": [
        *("anchor_free", "anchor_free", "residual_anchor_free", "residual_anchor_free"),
        "faster_rcnn",
        "sliding_classifier",
    ],
    "slices": list(BACKBONES),
}


@pytest.mark.parametrize("task", SECTIONS)
def test_every_network_is_listed_with_size_weights_and_purpose(task: str) -> None:
    (section,) = list_models(task)
    title, _, *rows = section.strip().splitlines()
    assert title.startswith(f"{task}: ")
    assert [row.split()[0] for row in rows] == NAMES[task]
    assert max(len(row) for row in rows) <= 100
    for row in rows:
        name, parameters, million, flops, weights, *purpose = row.split()
        assert (float(parameters) > 0, million, float(flops) > 0) == (True, "M", True), row
        assert purpose, row
        if weights in ("imagenet", "kinetics") and "(2D)" not in purpose:
            _check(name, flops=float(flops), share=purpose[0], weights=weights)


def _check(name: str, *, flops: float, share: str, weights: str) -> None:
    """Against what torchvision publishes: multiply-adds at its own size, and accuracy."""
    meta = get_model_weights(name).DEFAULT.meta
    data_set = {"imagenet": "ImageNet-1K", "kinetics": "Kinetics-400"}[weights]
    assert float(share) == pytest.approx(meta["_metrics"][data_set]["acc@1"], abs=0.06)
    if name in ("r3d_18", "mc3_18", "r2plus1d_18", "resnet18", "mobilenet_v2"):  # same size there
        assert flops == pytest.approx(2 * meta["_ops"], rel=0.02), name


def test_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="segmentation, volumes, detection, slices"):
        list(list_models("recognition"))
