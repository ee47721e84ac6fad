"""Plan: what every task that learns from patches chooses alike, each choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.preparation import SET, Choices, choose_scheme
from pipeline.run import Run
from volumetric.errors import ConfigError
from volumetric.network_plan import NetworkPlan, NetworkWish, plan_network
from volumetric.plan import choose_batch, choose_spacing

Spacing = tuple[float, float, float]
Fingerprint = Mapping[str, Any]

HALVED = "axes are halved while they keep at least 4 voxels, the finest spacing first"
FLAT = "3 where the spacing is within twice the finest, else 1"


def plan_preparation(run: Run[Any], fingerprint: Fingerprint) -> Choices:
    """Spacing and intensity scheme: those that are set, or those chosen."""
    wanted = run.config.prepare
    spacing = choose_spacing(fingerprint)
    if wanted.spacing_mm is not None:
        spacing = wanted.spacing_mm, SET
    return {"spacing_mm": spacing, "intensity": choose_scheme(fingerprint, wanted.intensity)}


def fit_network(
    run: Run[Any], fingerprint: Fingerprint, spacing: Spacing, *, wish: NetworkWish
) -> tuple[NetworkPlan, str]:
    """The network for the patch that is set, or for one chosen, and why that patch.

    Raises:
        ConfigError: a patch size that the network cannot take.
    """
    model = run.config.model
    if model.patch_size is None:
        scale = np.array(fingerprint["spacing_mm"]["median"]) / spacing
        shape = [round(float(n)) for n in np.array(fingerprint["shape"]["median"]) * scale]
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


def plan_batch(
    run: Run[Any], fingerprint: Fingerprint, spacing: Spacing, patch_size: Sequence[int]
) -> tuple[int, str]:
    """Patches a step: what is set, or what the budget holds; and why."""
    if (batch := run.config.train.batch_size) is not None:
        return batch, SET
    scale = np.array(fingerprint["spacing_mm"]["median"]) / spacing
    depth, height, width = patch_size
    chosen = choose_batch(
        (depth, height, width),
        budget_voxels=run.config.model.budget_voxels,
        total_voxels=int(fingerprint["voxels"] * scale.prod()),
    )
    return chosen, "what the budget holds, at most 5 % of the data set's voxels, at least 2"
