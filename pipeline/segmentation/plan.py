"""Plan: what the fingerprint of the sound cases says, each choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.preparation import SET, Choices, choose_scheme, describe_choices
from pipeline.run import SegmentRun
from volumetric.errors import ConfigError
from volumetric.model import load_pretrained_spec
from volumetric.network_plan import NetworkPlan, NetworkWish, plan_network
from volumetric.plan import choose_batch, choose_spacing
from volumetric.spec import PretrainedSpec

_HALVED = "axes are halved while they keep at least 4 voxels, the finest spacing first"
_WHY_STRIDES = {
    "unet": _HALVED,
    "residual_unet": _HALVED,
    "attention_unet": _HALVED,
    "segresnet": "all axes are halved while the longest keeps over 4 voxels and the width allows",
}
_FLAT = "3 where the spacing is within twice the finest, else 1"
_WHY_KERNELS = {"unet": _FLAT, "residual_unet": _FLAT}


def make_plan(run: SegmentRun, fingerprint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What plan.json holds: {"values": {name: value}, "why": {name: reason}}.

    A value that the configuration sets goes before the one chosen.

    Raises:
        ConfigError: a patch size that the network cannot take, or weights of another one.
        UnreadableFileError: no such weights.
    """
    choices = _preparation(run, fingerprint)
    choices |= _network(run, fingerprint, choices["spacing_mm"][0])
    if (folder := run.config.model.pretrained) is not None:
        choices |= _as_pretrained(run, folder, fingerprint)
    return describe_choices(choices)


def _as_pretrained(run: SegmentRun, folder: Path, fingerprint: Mapping[str, Any]) -> Choices:
    """All that the weights were learned with, and the batch that goes with it.

    Raises:
        ConfigError: other weights, or of another kind, or a setting that says otherwise.
        UnreadableFileError: no model folder.
    """
    spec, kind = load_pretrained_spec(folder), run.config.model.kind
    if spec.kind != kind:
        raise ConfigError(
            "other-network",
            f"holds a {spec.kind}, and model.kind is {kind}",
            f"Use model.kind {spec.kind}",
            path=folder,
        )
    _refuse_otherwise(run, spec, folder)
    names = ("spacing_mm", "intensity", "patch_size", "features", "strides", "kernels")
    choices = {name: (getattr(spec, name), f"of the weights in {folder.name}") for name in names}
    if run.config.train.batch_size is None:
        scale = np.array(fingerprint["spacing_mm"]["median"]) / spec.spacing_mm
        batch = choose_batch(
            spec.patch_size,
            budget_voxels=run.config.model.budget_voxels,
            total_voxels=int(fingerprint["voxels"] * scale.prod()),
        )
        choices["batch_size"] = batch, "what the budget holds of the weights' patches"
    return choices


def _refuse_otherwise(run: SegmentRun, spec: PretrainedSpec, folder: Path) -> None:
    model, prepare = run.config.model, run.config.prepare
    said = {
        "prepare.spacing_mm": (prepare.spacing_mm, spec.spacing_mm),
        "prepare.intensity": (prepare.intensity, spec.intensity["kind"]),
        "model.patch_size": (model.patch_size, spec.patch_size),
        "model.base_features": (model.base_features, spec.features[0]),
    }
    for name, (ours, theirs) in said.items():
        if ours is not None and ours != theirs:
            raise ConfigError(
                "other-network",
                f"was learned with {name} {theirs}, and {ours} is set",
                f"Leave {name} out, or pretrain with it",
                path=folder,
            )


def _preparation(run: SegmentRun, fingerprint: Mapping[str, Any]) -> Choices:
    wanted = run.config.prepare
    spacing = choose_spacing(fingerprint)
    if wanted.spacing_mm is not None:
        spacing = wanted.spacing_mm, SET
    intensity = choose_scheme(fingerprint, wanted.intensity)
    return {"spacing_mm": spacing, "intensity": intensity}


def _network(
    run: SegmentRun, fingerprint: Mapping[str, Any], spacing: tuple[float, float, float]
) -> Choices:
    model, batch = run.config.model, run.config.train.batch_size
    scale = np.array(fingerprint["spacing_mm"]["median"]) / spacing
    shape = [round(float(n)) for n in np.array(fingerprint["shape"]["median"]) * scale]
    network, why_patch = _fit(run, shape, spacing)
    total = int(fingerprint["voxels"] * scale.prod())
    why_batch = "what the budget holds, at most 5 % of the data set's voxels, at least 2"
    choices = {
        "patch_size": (network.patch_size, why_patch),
        "batch_size": (batch, SET)
        if batch
        else (
            choose_batch(network.patch_size, budget_voxels=model.budget_voxels, total_voxels=total),
            why_batch,
        ),
        "features": (network.features, _why_features(run)),
        "strides": (network.strides, _WHY_STRIDES.get(model.kind, "the network's own")),
        "kernels": (network.kernels, _WHY_KERNELS.get(model.kind, "the network's own")),
    }
    if model.kind == "slice_unet":
        why_axis = "slices lie across the coarsest spacing, the first of those alike"
        choices["slice_axis"] = (
            network.slice_axis,
            why_axis if model.slice_axis is None else SET,
        )
    return choices


def _why_features(run: SegmentRun) -> str:
    base, largest = run.config.model.widths
    if run.config.model.kind == "unetr":
        return "of the decoder's finest stage, and of the transformer"
    return f"doubled from {base} a stage, at most {largest}"


def _fit(
    run: SegmentRun, shape: list[int], spacing: tuple[float, float, float]
) -> tuple[NetworkPlan, str]:
    """The network for the patch that is set, or for one chosen, and why that patch."""
    model = run.config.model
    base, largest = model.widths
    wish = NetworkWish(model.kind, base, largest, model.max_stages, model.slice_axis)
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
