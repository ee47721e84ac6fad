"""Plan: what the fingerprint of the sound cases says, each choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.preparation import SET, Choices, choose_scheme, describe_choices
from pipeline.run import DetectRun
from volumetric.errors import ConfigError, ManifestError
from volumetric.network_plan import NetworkPlan, NetworkWish, plan_network
from volumetric.plan import choose_batch, choose_spacing

_MOST_LEVELS = 4


def make_plan(run: Any, fingerprint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What plan.json holds: {"values": {name: value}, "why": {name: reason}}.

    A value that the configuration sets goes before the one chosen.

    Raises:
        ConfigError: a patch size that the network cannot take, or more levels than it has.
    """
    wanted = run.config.prepare
    spacing = choose_spacing(fingerprint)
    if wanted.spacing_mm is not None:
        spacing = wanted.spacing_mm, SET
    choices: Choices = {
        "spacing_mm": spacing,
        "intensity": choose_scheme(fingerprint, wanted.intensity),
    }
    return describe_choices(choices | _network(run, fingerprint, spacing[0]))


def _network(
    run: DetectRun, fingerprint: Mapping[str, Any], spacing: tuple[float, float, float]
) -> Choices:
    model, batch = run.config.model, run.config.train.batch_size
    scale = np.array(fingerprint["spacing_mm"]["median"]) / spacing
    shape = [round(float(n)) for n in np.array(fingerprint["shape"]["median"]) * scale]
    network, why_patch = _fit(run, shape, spacing)
    total = int(fingerprint["voxels"] * scale.prod())
    why_batch = "what the budget holds, at most 5 % of the data set's voxels, at least 2"
    chosen = choose_batch(network.patch_size, budget_voxels=model.budget_voxels, total_voxels=total)
    box: Choices = {}
    if model.kind == "sliding_classifier":
        box = {"box_size": _box_size(run, fingerprint, spacing)}
    return box | {
        "patch_size": (network.patch_size, why_patch),
        "batch_size": (batch, SET) if batch else (chosen, why_batch),
        "features": (
            network.features,
            f"doubled from {model.base_features} a stage, at most {model.max_features}",
        ),
        "strides": (
            network.strides,
            "axes are halved while they keep at least 4 voxels, the finest spacing first",
        ),
        "kernels": (network.kernels, "3 where the spacing is within twice the finest, else 1"),
        "n_levels": _levels(run, fingerprint, network.strides, spacing),
    }


def _box_size(
    run: DetectRun, fingerprint: Mapping[str, Any], spacing: tuple[float, float, float]
) -> tuple[list[float], str]:
    """The box that a sliding classifier tells, in voxels, and why."""
    side_mm = fingerprint["objects"]["median_side_mm"]
    if side_mm is None:
        raise ManifestError(
            "nothing-to-learn",
            "no case holds an object, so that nothing says how large its box should be",
            "Name boxes or masks in the manifest",
            path=run.manifest,
        )
    return [round(side_mm / step, 3) for step in spacing], (
        f"a cube of {side_mm:g} mm, the median of the objects' longest sides"
    )


def _levels(
    run: DetectRun,
    fingerprint: Mapping[str, Any],
    strides: Sequence[Sequence[int]],
    spacing: tuple[float, float, float],
) -> tuple[int, str]:
    """How many of the coarsest stages are looked at, and why."""
    wanted = run.config.model.n_levels
    if wanted is not None:
        if wanted > len(strides):
            raise ConfigError(
                "bad-levels",
                f"model.n_levels {wanted} is more than the network's {len(strides)} stages",
                "Lower it, or leave it out",
                path=run.folder / "config.yaml",
            )
        return wanted, SET
    cells_mm = np.cumprod(np.array(strides), axis=0) * spacing
    small_mm = fingerprint["objects"]["smallest_side_mm"]
    if small_mm is None:
        return min(2, len(strides) - 1), "no object to go by"
    # Full resolution costs more than it finds.
    fits = [stage for stage in range(1, len(strides)) if cells_mm[stage].max() <= small_mm]
    finest = max(max(fits, default=1), len(strides) - _MOST_LEVELS)
    cell = " x ".join(f"{side:g}" for side in cells_mm[finest])
    return len(strides) - finest, (
        f"the finest has cells of {cell} mm; a tenth of the objects have a side below "
        f"{small_mm:.3g} mm"
    )


def _fit(
    run: DetectRun, shape: list[int], spacing: tuple[float, float, float]
) -> tuple[NetworkPlan, str]:
    """The network for the patch that is set, or for one chosen, and why that patch."""
    model = run.config.model
    wish = NetworkWish("unet", model.base_features, model.max_features, model.max_stages)
    if model.patch_size is None:
        network = plan_network(wish, shape, spacing, budget_voxels=model.budget_voxels)
        return network, (
            f"median shape {shape} at that spacing, within a budget of {model.budget_voxels:,} "
            f"voxels; {model.kind} takes {network.needs}"
        )
    network = plan_network(wish, model.patch_size, spacing)
    if network.patch_size != model.patch_size:
        raise ConfigError(
            "bad-patch-size",
            f"model.patch_size {list(model.patch_size)} is nothing that {model.kind} takes: "
            f"{network.needs}",
            f"Use {list(network.patch_size)}, another that fits, or leave it out",
            path=run.folder / "config.yaml",
        )
    return network, SET
