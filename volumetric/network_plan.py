"""What each network that segments needs of its patches, and the patches that give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from volumetric.network_names import Segmenter
from volumetric.plan import (
    choose_features,
    choose_patch,
    choose_slice_axis,
    grow_cube,
    shrink_to,
)

Triple = tuple[int, int, int]

_MIXED = 8  # a batch of slices shall hold at least so many patches
_PLANES = 5  # resolutions of the largest 2D encoder, each half the one before


@dataclass(frozen=True)
class NetworkWish:
    """What is asked of a network.

    Attributes:
        kind: architecture.
        base_features: channels of the finest stage.
        max_features: channels of the widest stage, or of a transformer.
        max_stages: resolutions at most, where the kind leaves a choice.
        slice_axis: what slices lie across (0 D, 1 H, 2 W); None: the coarsest spacing. Only of
            slice_unet.
    """

    kind: Segmenter
    base_features: int
    max_features: int
    max_stages: int = 6
    slice_axis: int | None = None


@dataclass(frozen=True)
class NetworkPlan:
    """A network in numbers, as `ModelSpec` holds them.

    Attributes:
        patch_size: voxels along D, H, W.
        features: channels of each stage, finest first; of unetr those of decoder and transformer.
        strides: stride of each stage.
        kernels: kernel of each stage; none where the kind has its own.
        needs: what patches the network takes, in words.
        slice_axis: what slices lie across.
    """

    patch_size: Triple
    features: list[int]
    strides: list[Triple]
    kernels: list[Triple]
    needs: str
    slice_axis: int = 0


def plan_network(
    wish: NetworkWish,
    shape: Sequence[float],
    spacing: tuple[float, float, float],
    *,
    budget_voxels: int | None = None,
) -> NetworkPlan:
    """The network for a median shape (D, H, W) at a spacing.

    The patch holds at most half the budget (two make the smallest batch), or the least that the
    network takes. Without a budget the shape is a patch that is wanted as it is: the plan's is the
    same if the network takes it, else one near it.
    """
    # Without a budget there is room for every axis to be rounded up.
    limit = 8 * float(np.prod(shape)) if budget_voxels is None else budget_voxels / 2
    match wish.kind:
        case "unet" | "residual_unet" | "attention_unet":
            return _plan_unet(wish, shape, spacing, limit)
        case "segresnet":
            return _plan_segresnet(wish, shape, spacing, limit)
        case "swin_unetr":
            return _plan_swin(wish, shape, spacing, limit)
        case "unetr":
            patch = _multiples(shape, spacing, divisor=16, limit=limit, nearest=True)
            features = [wish.base_features, wish.max_features]
            return NetworkPlan(patch, features, [(16, 16, 16)], [], "multiples of 16")
        case "slice_unet":
            few = limit if budget_voxels is None else budget_voxels / _MIXED
            return _plan_slices(wish, shape, spacing, (limit, few))


def _plan_unet(
    wish: NetworkWish, shape: Sequence[float], spacing: tuple[float, float, float], limit: float
) -> NetworkPlan:
    patch, strides, kernels = choose_patch(
        shape, spacing, budget_voxels=int(2 * limit), max_stages=wish.max_stages
    )
    if wish.kind == "attention_unet":
        kernels = [(3, 3, 3)] * len(strides)
    features = choose_features(len(strides), base=wish.base_features, largest=wish.max_features)
    factors = [int(n) for n in np.prod(strides, axis=0)]
    return NetworkPlan(patch, features, strides, kernels, f"divisible by the strides, {factors}")


def _plan_segresnet(
    wish: NetworkWish, shape: Sequence[float], spacing: tuple[float, float, float], limit: float
) -> NetworkPlan:
    """As many stages as the width allows and as leave the longest axis more than 4 voxels."""
    relative = np.array(spacing) / min(spacing)
    longest = float(grow_cube(shape, relative, limit=limit).max())
    by_width = int(np.log2(wish.max_features / wish.base_features))
    most = max(1, min(wish.max_stages - 1, by_width))
    halvings = max([n for n in range(1, most + 1) if longest > 4 * 2**n], default=1)
    return NetworkPlan(
        _multiples(shape, spacing, divisor=2**halvings, limit=limit),
        [wish.base_features * 2**stage for stage in range(halvings + 1)],
        [(1, 1, 1), *[(2, 2, 2)] * halvings],
        [(3, 3, 3)] * (halvings + 1),
        f"multiples of {2**halvings}",
    )


def _plan_swin(
    wish: NetworkWish, shape: Sequence[float], spacing: tuple[float, float, float], limit: float
) -> NetworkPlan:
    patch = list(_multiples(shape, spacing, divisor=32, limit=limit, nearest=True))
    if patch == [32, 32, 32]:
        # Its coarsest map would be a single voxel, which instance norm cannot take.
        patch[int(np.argmax(shape))] = 64
    return NetworkPlan(
        (patch[0], patch[1], patch[2]),
        [wish.base_features * 2**stage for stage in range(5)],
        [(2, 2, 2)] * 5,
        [],
        "multiples of 32, at least one of them 64",
    )


def _plan_slices(
    wish: NetworkWish,
    shape: Sequence[float],
    spacing: tuple[float, float, float],
    limits: tuple[float, float],
) -> NetworkPlan:
    """Whole slices where the first limit allows, and as many of them as the second does.

    Slices of one case are alike, so that many cases a batch teach more than many slices.
    """
    axis = choose_slice_axis(shape, spacing) if wish.slice_axis is None else wish.slice_axis
    plane = [other for other in range(3) if other != axis]
    patch = np.ones(3)
    relative = np.array([spacing[other] for other in plane])
    patch[plane] = grow_cube([shape[other] for other in plane], relative, limit=limits[0])
    patch = np.maximum(1, np.floor(patch))
    patch[axis] = min(shape[axis], max(1, limits[1] // patch.prod()))
    n_stages = max(1, min(_PLANES, wish.max_stages - 1))
    d, h, w = (int(n) for n in patch)
    stride = [1 if other == axis else 2 for other in range(3)]
    return NetworkPlan(
        (d, h, w),
        choose_features(n_stages, base=wish.base_features, largest=wish.max_features),
        [(stride[0], stride[1], stride[2])] * n_stages,
        [],
        "any",
        axis,
    )


def _multiples(
    shape: Sequence[float],
    spacing: tuple[float, float, float],
    *,
    divisor: int,
    limit: float,
    nearest: bool = False,
) -> Triple:
    """The multiples of the divisor above the shape, or above what the limit allows of it.

    Nearest is for large divisors: a side of 36 would be padded to 64, and what lies beyond a
    patch is reached by another window.
    """
    relative = np.array(spacing) / min(spacing)
    factors = np.full(3, divisor)
    counts = grow_cube(shape, relative, limit=limit) / divisor
    patch = np.maximum(1, np.round(counts) if nearest else np.ceil(counts)) * divisor
    patch = shrink_to(patch.astype(int), relative, divisor=factors, limit=limit)
    d, h, w = (int(n) for n in patch)
    return d, h, w
