"""Plan: what the fingerprint of the sound cases says, each choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.run import SegmentRun
from volumetric.errors import ConfigError
from volumetric.plan import (
    choose_batch,
    choose_features,
    choose_intensity,
    choose_patch,
    choose_spacing,
)

Triple = tuple[int, int, int]
Choices = dict[str, tuple[Any, str]]

_SET = "set in the configuration"


def make_plan(run: SegmentRun, fingerprint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What plan.json holds: {"values": {name: value}, "why": {name: reason}}.

    A value that the configuration sets goes before the one chosen.

    Raises:
        ConfigError: a patch size that the network cannot take.
    """
    choices = _preparation(run, fingerprint)
    choices |= _network(run, fingerprint, choices["spacing_mm"][0])
    return {
        "values": {name: value for name, (value, _) in choices.items()},
        "why": {name: why for name, (_, why) in choices.items()},
    }


def _preparation(run: SegmentRun, fingerprint: Mapping[str, Any]) -> Choices:
    wanted = run.config.prepare
    spacing, intensity = choose_spacing(fingerprint), choose_intensity(fingerprint)
    if wanted.spacing_mm is not None:
        spacing = wanted.spacing_mm, _SET
    if wanted.intensity is not None:
        modality = "CT" if wanted.intensity == "window" else "other"
        intensity = choose_intensity({**fingerprint, "modality": modality})[0], _SET
    return {"spacing_mm": spacing, "intensity": intensity}


def _network(
    run: SegmentRun, fingerprint: Mapping[str, Any], spacing: tuple[float, float, float]
) -> Choices:
    model, batch = run.config.model, run.config.train.batch_size
    scale = np.array(fingerprint["spacing_mm"]["median"]) / spacing
    shape = [round(float(n)) for n in np.array(fingerprint["shape"]["median"]) * scale]
    why_patch = (
        f"median shape {shape} at that spacing, within a budget of {model.budget_voxels:,} "
        "voxels, divisible by the strides"
    )
    patch, strides, kernels = choose_patch(
        shape, spacing, budget_voxels=model.budget_voxels, max_stages=model.max_stages
    )
    if model.patch_size is not None:
        patch, strides, kernels = _own_patch(run, model.patch_size, spacing)
        why_patch = _SET
    total = int(fingerprint["voxels"] * scale.prod())
    why_batch = "what the budget holds, at most 5 % of the data set's voxels, at least 2"
    features = choose_features(len(strides), base=model.base_features, largest=model.max_features)
    return {
        "patch_size": (patch, why_patch),
        "batch_size": (batch, _SET)
        if batch
        else (
            choose_batch(patch, budget_voxels=model.budget_voxels, total_voxels=total),
            why_batch,
        ),
        "features": (
            features,
            f"doubled from {model.base_features} a stage, at most {model.max_features}",
        ),
        "strides": (
            strides,
            "axes are halved while they keep at least 4 voxels, the finest spacing first",
        ),
        "kernels": (kernels, "3 where the spacing is within twice the finest, else 1"),
    }


def _own_patch(
    run: SegmentRun, patch: Triple, spacing: tuple[float, float, float]
) -> tuple[Triple, list[Triple], list[Triple]]:
    found, strides, kernels = choose_patch(
        patch,
        spacing,
        budget_voxels=2 * int(np.prod(patch)),
        max_stages=run.config.model.max_stages,
    )
    if found != tuple(patch):
        raise ConfigError(
            "bad-patch-size",
            f"model.patch_size {list(patch)} is not divisible by the network's strides",
            f"Use {list(found)}, or lower model.max_stages",
            path=run.folder / "config.yaml",
        )
    return found, strides, kernels
