"""Clips, where they differ from scans: what the network is, sees and says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.classification.augmentation import choose_augmentation, tested_axes
from pipeline.files import read_json
from pipeline.keys import read_plan
from pipeline.run import ClassifyRun, Run, describe_origin
from volumetric.clip_augment import (
    ClipAugmentation,
    augment_clips,
    mix_clips,
    sample_changes,
    sample_mix,
)
from volumetric.clip_dataset import draw_clips
from volumetric.inference.clips import (
    ClipScores,
    classify_clip,
    present,
    seen_frames,
    show_clip,
)
from volumetric.io.prepared import Prepared
from volumetric.labelled import LabelledCase
from volumetric.model import Model, load_classifier, load_classifier_spec
from volumetric.models.backbones import STATISTICS
from volumetric.spec import ClassifierSpec
from volumetric.volume import Volume

show = show_clip
load = load_classifier


def make_spec(run: ClassifyRun) -> ClassifierSpec:
    """What the configuration and the plan say of the network.

    Raises:
        ConfigError: mirror images are asked for that the manifest does not allow.
    """
    protocol = run.config.predict
    return ClassifierSpec(
        **describe_input(run),
        members=run.config.train.members,
        classes=list(run.data_set.labels),
        multi_label=run.data_set.multi_label,
        views=protocol.views,
        crops=protocol.crops,
        mirror_axes=tested_axes(run),
    )


def describe_input(run: Run[Any]) -> dict[str, Any]:
    """What the specs of all networks of clips say alike: what they are, and what they see."""
    plan, model = read_plan(run), run.config.model
    mean, std = STATISTICS["kinetics" if model.weights == "kinetics" else "imagenet"]
    if model.weights_folder is not None:
        source = load_classifier_spec(model.weights_folder)
        mean, std = tuple(source.mean), tuple(source.std)
    return {
        **model.model_dump(exclude={"weights", "trunk"}),
        "rate": plan["rate"],
        "short_side": plan["short_side"],
        "mean": list(mean),
        "std": list(std),
        "fingerprint": read_json(run.folder / "fingerprint.json"),
        "about": describe_origin(run),
    }


def drawing(
    run: ClassifyRun,
    spec: ClassifierSpec,
    sources: Sequence[LabelledCase],
    chances: NDArray[np.float64],
    device: torch.device,
) -> Callable[..., Any]:
    """What `fit` calls for the next batch: network input, and soft targets."""
    settings = choose_augmentation(run)

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        clips, targets = draw_clips(
            sources,
            rng,
            spec=spec,
            batch_size=run.config.train.batch_size,
            chances=chances,
            jitter=settings.jitter,
        )
        images = change_clips(clips, generator, settings=settings, spec=spec)
        mix = sample_mix(len(clips), generator, settings=settings)
        images, targets = mix_clips(images, targets.to(device), mix, n_classes=len(spec.classes))
        return present(images, spec), targets

    return draw


def change_clips(
    clips: Sequence[torch.Tensor],
    generator: torch.Generator,
    *,
    settings: ClipAugmentation,
    spec: ClassifierSpec,
) -> torch.Tensor:
    """Changed clips (B, C, frames, *spec.frame_size) on the generator's device, of any sizes."""
    parts = []
    for clip in _stacked(clips):
        batch = clip.to(generator.device)
        changes = sample_changes(batch, generator, settings=settings)
        parts.append(augment_clips(batch, changes, size=spec.frame_size))
    return torch.cat(parts)


def picture(prepared: Prepared, spec: ClassifierSpec) -> Volume:
    """A prepared clip as a person is shown it: the frames that the network saw, uint8."""
    clip = prepared.read_image()
    frames, times_s = seen_frames(clip, spec)
    step_s = float(np.diff(times_s).mean()) if len(times_s) > 1 else 1 / spec.rate
    affine = np.diag([step_s, 1.0, 1.0, 1.0])
    affine[0, 3] = times_s[0]
    return Volume(frames, affine, "clip")


def label(
    run: ClassifyRun, model: Model[ClassifierSpec], image: torch.Tensor, quick: bool
) -> ClipScores:
    """What a model says of a prepared clip, by the run's test protocol; `quick`: by one view."""
    if quick:
        return classify_clip(model, image, views=1, crops=1, mirror_axes=())
    protocol = run.config.predict
    return classify_clip(
        model,
        image,
        views=protocol.views,
        crops=protocol.crops,
        mirror_axes=tested_axes(run),
    )


def describe_protocol(run: ClassifyRun) -> dict[str, Any]:
    """How clips are tested."""
    model = run.config.model.model_dump(
        include={"frames", "stride", "sampling", "size", "fit", "lag"}
    )
    section = run.config.predict
    return {
        "views": 1 if run.config.model.sampling == "uniform" else section.views,
        "crops": 1 if run.config.model.fit == "whole" else section.crops,
        "mirrored": 2 ** len(tested_axes(run)),
        **model,
        "rate": read_plan(run)["rate"],
        "input": run.config.model.input,
    }


def _stacked(clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One batch where all clips have one size, which is faster; else a batch a clip."""
    if len({clip.shape for clip in clips}) == 1:
        return [torch.stack(list(clips))]
    return [clip[None] for clip in clips]
