"""A frozen trunk: what it sees of each case is computed once, and heads learn from that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.classification.augmentation import choose_mixing, mirror_chances
from pipeline.classification.medium import LabelSpec, find_medium
from pipeline.files import hash_values
from pipeline.progress import track
from pipeline.run import LabelRun
from volumetric.clip_augment import mix_clips, sample_mix
from volumetric.features import (
    FeatureSource,
    answer_features,
    draw_features,
    measure_spread,
    open_features,
    see_images,
    standing_key,
    write_features,
)
from volumetric.labelled import LabelledCase
from volumetric.models import SliceNetwork
from volumetric.models.heads import SliceHead


def see_cases(
    run: LabelRun,
    network: SliceNetwork,
    cases: Sequence[LabelledCase],
    *,
    spec: LabelSpec,
    key: str,
) -> list[FeatureSource]:
    """What the trunk sees of each case, from features/<case>.safetensors where that stands.

    `key` is the trunk's, see `trunk_key`.

    Raises:
        OutputError: the folder cannot be written.
    """
    network.eval()
    paths = [run.folder / "features" / case.prepared.path.name for case in cases]
    keys = [hash_values(case.prepared.facts["key"], key) for case in cases]
    missing = [
        one for one in zip(paths, cases, keys, strict=True) if standing_key(one[0]) != one[2]
    ]
    show, axes = find_medium(run).show, tuple(mirror_chances(run))
    for path, case, own in track(missing, total=len(missing), title="features"):
        seen = see_images(network, show(case.read(), spec), mirror_axes=axes)
        write_features(path, seen, key=own)
    budget = int(run.config.train.cache_gb * 1e9)
    return open_features(paths, [case.target for case in cases], budget_bytes=budget)


def set_spread(network: SliceNetwork, sources: Sequence[FeatureSource]) -> None:
    """Let the heads, which are changed, standardise features as these sources have them."""
    centre, spread = measure_spread(sources)
    for head in network.heads:
        assert isinstance(head, SliceHead)
        head.centre.copy_(centre)
        head.spread.copy_(spread)


def drawing(
    run: LabelRun,
    sources: Sequence[FeatureSource],
    chances: NDArray[np.float64],
    device: torch.device,
) -> Any:
    """What `fit` calls for the next batch of features, and soft targets."""
    section = run.config.train
    mixing, mirror = choose_mixing(run), mirror_chances(run)

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        seen, targets = draw_features(
            sources,
            rng,
            batch_size=section.batch_size,
            chances=chances,
            mirror=mirror,
        )
        mix = sample_mix(len(seen), generator, settings=mixing)
        return mix_clips(seen.to(device), targets.to(device), mix, n_classes=targets.shape[1])

    return draw


def validation(run: LabelRun, sources: Sequence[FeatureSource]) -> Any:
    """What `fit` calls after each epoch: how often the class of held-out cases is found.

    For several labels a case, how often each label is right.
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
