"""Train: one fold held out, the network learns from the others, its weights are exported."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.instances.keys import training_key
from pipeline.keys import read_plan
from pipeline.learning import Course, describe_network, learn_fold, open_cases
from pipeline.run import InstancesRun
from volumetric.augment import Augmentation, augment
from volumetric.dataset import draw_batch, open_sources
from volumetric.errors import ManifestError
from volumetric.folds import draw_share
from volumetric.io.prepared import Prepared
from volumetric.learning import Lesson
from volumetric.metrics.instances import match_instances, score_instances
from volumetric.metrics.resampling import Resampling
from volumetric.networks import build_network
from volumetric.spec import ModelSpec
from volumetric.splitting import group_voxels, splitting_loss

_ELSEWHERE = 7_919  # another seed than any epoch's


def train(run: InstancesRun, fold: int) -> None:
    """Write folds/<fold>/{last.ckpt,history.csv} and model/fold_<fold>.safetensors.

    Goes on from the last epoch where an earlier run with the same settings stopped.

    Raises:
        ManifestError: no case with a mask is left to learn from, or none holds an object.
        TrainingError: the loss is not finite any more.
        DeviceError: the device is not there.
        OutputError: a case has not been prepared for the present plan.
    """

    def make(device: torch.device) -> Course:
        spec = _spec(run)
        learned, held_out = _split(run, fold)
        lesson = Lesson(
            _drawing(run, spec, learned, device),
            partial(splitting_loss, spacing=spec.spacing_mm),
            _validation(run, spec, held_out, device),
        )
        return Course(spec, lambda: build_network(spec), lesson)

    learn_fold(run, fold, make, training_key=lambda: training_key(run, fold))


def _spec(run: InstancesRun) -> ModelSpec:
    plan = read_plan(run)
    return ModelSpec(
        **describe_network(run),
        classes=run.data_set.classes,
        overlap=run.config.predict.overlap,
        splits=True,
        apart_mm=plan["apart_mm"],
        least_voxels=plan["least_voxels"],
    )


def _split(run: InstancesRun, fold: int) -> tuple[list[Prepared], list[Prepared]]:
    cases = run.labelled_cases()
    learned_from = [case for case in cases if case.fold != fold]
    drawn = draw_share(learned_from, run.config.train.share, seed=run.config.seed)
    learned = open_cases(run, drawn)
    if not any(one.facts["labels"] for one in learned):
        what = "holds an object" if learned else "has a mask"
        raise ManifestError(
            "nothing-to-learn",
            f"no usable case outside fold {fold} {what}",
            "Add cases, or see quarantine.json for those set apart",
            path=run.manifest,
        )
    return learned, open_cases(run, [case for case in cases if case.fold == fold])


def _drawing(
    run: InstancesRun, spec: ModelSpec, cases: Sequence[Prepared], device: torch.device
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
        return augment(images, masks, generator, settings=augmentation, spacing=spec.spacing_mm)

    return draw


def _validation(
    run: InstancesRun, spec: ModelSpec, cases: Sequence[Prepared], device: torch.device
) -> Any:
    """What `fit` calls after each epoch: panoptic quality on patches of held-out cases."""
    section = run.config.train
    patches: list[tuple[torch.Tensor, torch.Tensor]] = []
    if cases:
        images, masks = draw_batch(
            open_sources(cases, device=device, budget_bytes=0),
            np.random.default_rng([run.config.seed, _ELSEWHERE]),
            patch_size=spec.patch_size,
            batch_size=section.validation_cases,
            foreground=1.0,
        )
        patches = list(zip(images, masks, strict=True))

    @torch.inference_mode()
    def validate(network: nn.Module) -> float | None:
        matched = []
        for image, mask in patches:
            outputs = network(image[None].to(device))[0]
            numbers, _ = group_voxels(
                outputs,
                spacing=spec.spacing_mm,
                apart_mm=spec.apart_mm,
                least_voxels=spec.least_voxels,
            )
            matched.append(match_instances(numbers, mask.cpu().numpy()))
        if not matched:
            return None
        return score_instances(matched, resampling=Resampling(1))["panoptic_quality"].mean

    return validate
