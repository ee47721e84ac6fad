"""Plan: what the fingerprint of the sound cases says, each choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.planning import FLAT, HALVED, fit_network, plan_batch, plan_preparation
from pipeline.preparation import SET, Choices, describe_choices
from pipeline.run import SegmentRun
from volumetric.errors import ConfigError
from volumetric.model import load_pretrained_spec
from volumetric.network_plan import NetworkWish
from volumetric.spec import PretrainedSpec

_WHY_STRIDES = {
    "unet": HALVED,
    "residual_unet": HALVED,
    "attention_unet": HALVED,
    "segresnet": "all axes are halved while the longest keeps over 4 voxels and the width allows",
}
_WHY_KERNELS = {"unet": FLAT, "residual_unet": FLAT}


def make_plan(run: SegmentRun, fingerprint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What plan.json holds: {"values": {name: value}, "why": {name: reason}}.

    A value that the configuration sets goes before the one chosen.

    Raises:
        ConfigError: a patch size that the network cannot take, or weights of another one.
        UnreadableFileError: no such weights.
    """
    choices = plan_preparation(run, fingerprint)
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
    batch = plan_batch(run, fingerprint, spec.spacing_mm, spec.patch_size)
    return {**choices, "batch_size": batch}


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


def _network(
    run: SegmentRun, fingerprint: Mapping[str, Any], spacing: tuple[float, float, float]
) -> Choices:
    model = run.config.model
    base, largest = model.widths
    wish = NetworkWish(model.kind, base, largest, model.max_stages, model.slice_axis)
    network, why_patch = fit_network(run, fingerprint, spacing, wish=wish)
    choices = {
        "patch_size": (network.patch_size, why_patch),
        "batch_size": plan_batch(run, fingerprint, spacing, network.patch_size),
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
