"""A scan in, its probabilities out: all of it at one spacing, in a box of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from volumetric.inference.clips import ClipScores, mirrored, probabilities_of
from volumetric.model import Model
from volumetric.spec import ScanClassifierSpec


def show_scans(images: torch.Tensor, spec: ScanClassifierSpec) -> torch.Tensor:
    """What the network is shown, float32 (B, C, D, H, W), of prepared scans.

    Slices are scaled linearly, over wider windows where they shrink (antialiased).
    """
    x = (images.to(torch.float32) - spec.mean) / spec.std
    if spec.slice_size is None or x.shape[3:] == (spec.slice_size, spec.slice_size):
        return x
    batch, channels = x.shape[:2]
    scaled = F.interpolate(
        x.flatten(0, 1),
        size=(spec.slice_size, spec.slice_size),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return scaled.reshape(batch, channels, *scaled.shape[1:])


@torch.inference_mode()
def classify_scan(
    model: Model[ScanClassifierSpec],
    image: torch.Tensor,
    *,
    mirror_axes: Sequence[int] | None = None,
) -> ClipScores:
    """Probabilities of a prepared scan (C, D, H, W), averaged over its mirror images and networks.

    Each mirror image is a view, along every set of `mirror_axes`; the specification's if not
    given. `seen_s` is empty: a scan has no time.
    """
    spec = model.spec
    device = next(model.networks[0].parameters()).device
    views = []
    for axes in mirrored(spec.mirror_axes if mirror_axes is None else mirror_axes):
        shown = show_scans(image[None].to(device).flip([2 + axis for axis in axes]), spec)
        scores = [probabilities_of(network(shown), spec)[0] for network in model.networks]
        views.append(torch.stack(scores).mean(0).cpu().to(torch.float64).numpy())
    return ClipScores(np.mean(views, axis=0), np.stack(views), np.zeros((0, 2)))
