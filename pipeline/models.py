"""The networks that can be trained, with their size."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

from volumetric.plan import choose_features, choose_patch
from volumetric.spec import ModelSpec, build_network

Kind = Literal["unet", "residual_unet"]

_SHAPE = (96, 96, 96)
_SIZES = {"CPU preset": (16, 128), "GPU preset": (32, 320)}


def list_models() -> str:
    """A table of networks: parameters, and multiply-adds counted twice, for one stated input."""
    lines = [
        f"for one image of 1 x {' x '.join(str(n) for n in _SHAPE)}, two foreground classes",
        f"{'model.kind':<16}{'features':<24}{'parameters':>12}{'GFLOPs':>10}",
    ]
    for kind in get_args(Kind):
        for base, largest in _SIZES.values():
            features, parameters, flops = _measure(kind, base, largest)
            shown = "-".join(str(n) for n in features)
            lines.append(f"{kind:<16}{shown:<24}{parameters / 1e6:>10.2f} M{flops / 1e9:>10.1f}")
    return "\n".join(lines)


def _measure(kind: Kind, base: int, largest: int) -> tuple[list[int], int, int]:
    patch, strides, kernels = choose_patch(
        _SHAPE, (1, 1, 1), budget_voxels=2 * _SHAPE[0] ** 3, max_stages=6
    )
    features = choose_features(len(strides), base=base, largest=largest)
    spec = ModelSpec(
        kind=kind,
        n_channels=1,
        classes={1: "one", 2: "two"},
        features=features,
        strides=strides,
        kernels=kernels,
        patch_size=patch,
        spacing_mm=(1, 1, 1),
        intensity={"kind": "zscore"},
    )
    with torch.device("meta"):
        network = build_network(spec).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(1, 1, *patch))
    return features, sum(p.numel() for p in network.parameters()), counter.get_total_flops()
