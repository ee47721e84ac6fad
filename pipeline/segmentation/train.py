"""Train: one fold held out, the network learns from the others, its weights are exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.keys import read_plan, source_fold
from pipeline.learning import (
    Course,
    describe_network,
    learn_fold,
    open_cases,
    split_fold,
    spread_over,
)
from pipeline.run import SegmentRun
from pipeline.segmentation.keys import training_key
from volumetric.augment import Augmentation, augment
from volumetric.dataset import PatchSource, draw_batch, open_sources, read_patch
from volumetric.folds import draw_share
from volumetric.io.prepared import Prepared
from volumetric.learning import Lesson
from volumetric.losses import deep_supervision
from volumetric.metrics.segmentation import dice_of_label
from volumetric.model import load_pretrained_spec, start_from
from volumetric.networks import build_network
from volumetric.spec import ModelSpec


def train(run: SegmentRun, fold: int) -> None:
    """Write folds/<fold>/{last.ckpt,history.csv} and model/fold_<fold>.safetensors.

    Goes on from the last epoch where an earlier run with the same settings stopped.

    Raises:
        ManifestError: no case with a mask is left to learn from.
        TrainingError: the loss is not finite any more.
        DeviceError: the device is not there.
        OutputError: a case has not been prepared for the present plan.
        ConfigError, DownloadError, UnreadableFileError, UnsupportedError: no such weights.
    """

    def make(device: torch.device) -> Course:
        spec = _spec(run)
        learned, held_out = _split(run, fold)
        lesson = Lesson(
            _drawing(run, spec, learned, device),
            deep_supervision,
            _validation(run, spec, held_out, device),
        )
        return Course(spec, lambda: _network(run, spec, fold), lesson)

    learn_fold(run, fold, make, training_key=lambda: training_key(run, fold))


def _network(run: SegmentRun, spec: ModelSpec, fold: int) -> nn.Module:
    """The network as it starts: from photographs, from scans without labels, or from nothing."""
    folder = run.config.model.pretrained
    if folder is None:
        return build_network(spec, weights=run.config.model.weights)
    network = build_network(spec)
    source = source_fold(run, folder, load_pretrained_spec(folder), fold)
    start_from(network, folder, fold=source)
    return network


def _spec(run: SegmentRun) -> ModelSpec:
    return ModelSpec(
        **describe_network(run),
        classes=run.data_set.classes,
        backbone=run.config.model.encoder,
        slice_axis=read_plan(run).get("slice_axis", 0),
        overlap=run.config.predict.overlap,
        mirror_axes=run.config.predict.mirror_axes,
    )


def _split(run: SegmentRun, fold: int) -> tuple[list[Prepared], list[Prepared]]:
    learned, held_out = split_fold(run, fold, what="case with a mask")
    learned = draw_share(learned, run.config.train.share, seed=run.config.seed)
    return open_cases(run, learned), open_cases(run, held_out)


def _drawing(
    run: SegmentRun, spec: ModelSpec, cases: Sequence[Prepared], device: torch.device
) -> Any:
    """What `fit` calls for the next batch."""
    section = run.config.train
    sources = open_sources(cases, device=device, budget_bytes=int(section.cache_gb * 1e9))
    batch_size = read_plan(run)["batch_size"]
    augmentation = Augmentation(**section.augment.model_dump())

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        images, masks = draw_batch(
            sources,
            rng,
            patch_size=spec.patch_size,
            batch_size=batch_size,
            foreground=section.foreground,
        )
        images, masks = images.to(device), masks.to(device)
        images, masks = augment(
            images, masks, generator, settings=augmentation, spacing=spec.spacing_mm
        )
        return images, masks

    return draw


def _validation(
    run: SegmentRun, spec: ModelSpec, cases: Sequence[Prepared], device: torch.device
) -> Any:
    """What `fit` calls after each epoch: mean Dice on the central patch of some held-out cases."""
    some = spread_over(cases, run.config.train.validation_cases)
    sources = open_sources(some, device=device, budget_bytes=0)
    patches = [_central_patch(source, spec, device) for source in sources]

    def validate(network: nn.Module) -> float | None:
        scores = [_dice(network, image, mask, len(spec.classes)) for image, mask in patches]
        known = [score for case in scores for score in case if score is not None]
        return float(np.mean(known)) if known else None

    return validate


def _central_patch(
    source: PatchSource, spec: ModelSpec, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch around the foreground's middle."""
    voxels = np.concatenate(
        list(source.foreground.values()) or [np.array([source.prepared.shape]) // 2]
    )
    middle = np.median(voxels, axis=0)
    start = []
    for axis, (n, p) in enumerate(zip(source.prepared.shape, spec.patch_size, strict=True)):
        start.append(-((p - n) // 2) if n <= p else int(np.clip(middle[axis] - p // 2, 0, n - p)))
    image, mask = read_patch(source, (start[0], start[1], start[2]), spec.patch_size)
    return image[None].to(device), mask.to(device)


@torch.inference_mode()
def _dice(
    network: nn.Module, image: torch.Tensor, mask: torch.Tensor, n_classes: int
) -> list[float | None]:
    found = network(image).argmax(1)[0]
    return [dice_of_label(found, mask, label) for label in range(1, n_classes + 1)]
