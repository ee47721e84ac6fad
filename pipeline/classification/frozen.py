"""A frozen trunk: what it sees of each clip is computed once, and heads learn from that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.classification.augmentation import choose_augmentation
from pipeline.classification.keys import features_key
from pipeline.progress import track
from pipeline.run import ClassifyRun
from volumetric.clip_augment import mix_clips, sample_mix
from volumetric.clip_dataset import ClipSource
from volumetric.features import (
    FeatureSource,
    answer_features,
    draw_features,
    measure_spread,
    open_features,
    see_clip,
    standing_key,
    write_features,
)
from volumetric.models import SliceNetwork
from volumetric.models.heads import SliceHead
from volumetric.spec import ClassifierSpec


def see_clips(
    run: ClassifyRun, network: SliceNetwork, clips: Sequence[ClipSource], *, spec: ClassifierSpec
) -> list[FeatureSource]:
    """What the trunk sees of each clip, from features/<case>.safetensors where that stands.

    Raises:
        OutputError: the folder cannot be written.
    """
    network.eval()
    paths = [run.folder / "features" / clip.prepared.path.name for clip in clips]
    keys = [features_key(run, clip.prepared.facts["key"]) for clip in clips]
    missing = [
        one for one in zip(paths, clips, keys, strict=True) if standing_key(one[0]) != one[2]
    ]
    mirror = choose_augmentation(run).p_flip > 0
    for path, clip, key in track(missing, total=len(missing), title="features"):
        seen = see_clip(network, clip.read(), spec=spec, mirror=mirror)
        write_features(path, seen, key=key)
    budget = int(run.config.train.cache_gb * 1e9)
    return open_features(paths, [clip.target for clip in clips], budget_bytes=budget)


def set_spread(network: SliceNetwork, sources: Sequence[FeatureSource]) -> None:
    """Let the heads, which are changed, standardise features as these sources have them."""
    centre, spread = measure_spread(sources)
    for head in network.heads:
        assert isinstance(head, SliceHead)
        head.centre.copy_(centre)
        head.spread.copy_(spread)


def drawing(
    run: ClassifyRun,
    sources: Sequence[FeatureSource],
    chances: NDArray[np.float64],
    device: torch.device,
) -> Any:
    """What `fit` calls for the next batch of features, and soft targets."""
    section = run.config.train
    settings = choose_augmentation(run)

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        seen, targets = draw_features(
            sources,
            rng,
            batch_size=section.batch_size,
            chances=chances,
            p_flip=settings.p_flip,
        )
        mix = sample_mix(len(seen), generator, settings=settings)
        return mix_clips(seen.to(device), targets.to(device), mix, n_classes=targets.shape[1])

    return draw


def validation(run: ClassifyRun, sources: Sequence[FeatureSource]) -> Any:
    """What `fit` calls after each epoch: how often the class of held-out clips is found.

    For several labels a clip, how often each label is right.
    """

    def validate(head: nn.Module) -> float | None:
        assert isinstance(head, SliceHead)
        hits = []
        for source in sources:
            found, truth = answer_features(head, source).cpu().numpy(), source.target.numpy()
            right = (found > 0) == truth if run.data_set.multi_label else truth[found.argmax()]
            hits.append(float(np.mean(right)))
        return float(np.mean(hits)) if hits else None

    return validate
