"""Plan: what the fingerprint of the sound cases says, each choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.planning import FLAT, HALVED, fit_network, plan_batch, plan_preparation
from pipeline.preparation import SET, Choices, describe_choices
from pipeline.run import DetectRun
from volumetric.errors import ConfigError, ManifestError
from volumetric.models.slice_encoder import ENCODERS
from volumetric.network_plan import NetworkWish
from volumetric.plan import choose_slice_axis

_MOST_LEVELS = 4
_CELLS = 3  # of a slice's finest grid along a small object


def make_plan(run: Any, fingerprint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What plan.json holds: {"values": {name: value}, "why": {name: reason}}.

    A value that the configuration sets goes before the one chosen.

    Raises:
        ConfigError: a patch size that the network cannot take, more levels than it has, or slices
            that cannot be halved.
    """
    choices = plan_preparation(run, fingerprint)
    return describe_choices(choices | _network(run, fingerprint, choices["spacing_mm"][0]))


def _network(
    run: DetectRun, fingerprint: Mapping[str, Any], spacing: tuple[float, float, float]
) -> Choices:
    model = run.config.model
    wish = NetworkWish("unet", model.base_features, model.max_features, model.max_stages)
    network, why_patch = fit_network(run, fingerprint, spacing, wish=wish)
    patch: Choices = {
        "patch_size": (network.patch_size, why_patch),
        "batch_size": plan_batch(run, fingerprint, spacing, network.patch_size),
    }
    if model.kind == "faster_rcnn":
        return patch | _slices(run, fingerprint, network.patch_size, spacing)
    if model.kind == "sliding_classifier":
        patch["box_size"] = _box_size(run, fingerprint, spacing)
    return patch | {
        "features": (
            network.features,
            f"doubled from {model.base_features} a stage, at most {model.max_features}",
        ),
        "strides": (network.strides, HALVED),
        "kernels": (network.kernels, FLAT),
        "n_levels": _levels(run, fingerprint, network.strides, spacing),
    }


def _slices(
    run: DetectRun,
    fingerprint: Mapping[str, Any],
    patch_size: tuple[int, int, int],
    spacing: tuple[float, float, float],
) -> Choices:
    """The 2D network of faster_rcnn: what its slices lie across, and its stages."""
    model = run.config.model
    axis, why_axis = choose_slice_axis(patch_size, spacing), "one voxel, or the coarsest spacing"
    if model.slice_axis is not None:
        axis, why_axis = model.slice_axis, SET
    sides = np.array([side for other, side in enumerate(patch_size) if other != axis])
    widths = ENCODERS[str(model.encoder)].widths
    # Anchors lie on their cells only where each stage halves the sides to whole numbers.
    most = min(len(widths), model.max_stages - 1)
    whole = [n for n in range(1, most + 1) if (sides % 2**n == 0).all() and sides.min() > 2**n]
    n_stages = max(whole, default=0)
    if n_stages == 0:
        raise ConfigError(
            "bad-patch-size",
            f"slices of {sides[0]} x {sides[1]} voxels across axis {axis} cannot be halved",
            "Choose another model.slice_axis, or a model.patch_size with even sides in the plane",
            path=run.folder / "config.yaml",
        )
    stride = [1 if other == axis else 2 for other in range(3)]
    # That a slice is thick makes no cell of its grids too large.
    plane = [0.0 if other == axis else step for other, step in enumerate(spacing)]
    levels = _levels(
        run, fingerprint, [stride] * n_stages, (plane[0], plane[1], plane[2]), cells=_CELLS
    )
    return {
        "slice_axis": (axis, why_axis),
        "features": (list(widths[:n_stages]), f"those of {model.encoder}"),
        "strides": (
            [stride] * n_stages,
            "halved while sides stay whole numbers, of 2 cells or more",
        ),
        "kernels": ([], f"those of {model.encoder}"),
        "n_levels": levels,
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
    *,
    cells: int = 1,
) -> tuple[int, str]:
    """How many of the coarsest stages are looked at, and why.

    The finest is the coarsest whose cells go so many times into a small object.
    """
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
    # Full resolution, where a network begins with it, costs more than it finds.
    first = 1 if max(strides[0]) == 1 else 0
    numbers = range(first, len(strides))
    fits = [stage for stage in numbers if cells * cells_mm[stage].max() <= small_mm]
    finest = max(max(fits, default=first), len(strides) - _MOST_LEVELS)
    cell = " x ".join(f"{side:g}" for side in cells_mm[finest] if side)
    return len(strides) - finest, (
        f"the finest has cells of {cell} mm; a tenth of the objects have a side below "
        f"{small_mm:.3g} mm"
    )
