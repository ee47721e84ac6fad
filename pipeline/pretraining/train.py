"""Train: one fold held out, the network learns from the other scans, its weights are exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.keys import read_plan
from pipeline.learning import (
    Course,
    describe_network,
    learn_fold,
    open_cases,
    split_fold,
    spread_over,
)
from pipeline.pretraining.keys import training_key
from pipeline.run import PretrainRun
from volumetric.augment import Augmentation, augment_images
from volumetric.dataset import draw_images, hold_images
from volumetric.io.prepared import Prepared
from volumetric.learning import Lesson
from volumetric.masking import Hidden, explained, hide_blocks, hiding_loss
from volumetric.networks import build_network
from volumetric.spec import PretrainedSpec

_ELSEWHERE = 7_919  # another seed than any epoch's


def train(run: PretrainRun, fold: int) -> None:
    """Write folds/<fold>/{last.ckpt,history.csv} and model/fold_<fold>.safetensors.

    Goes on from the last epoch where an earlier run with the same settings stopped.

    Raises:
        ManifestError: no case is left to learn from.
        TrainingError: the loss is not finite any more.
        DeviceError: the device is not there.
        OutputError: a case has not been prepared for the present plan.
    """

    def make(device: torch.device) -> Course:
        spec = PretrainedSpec(**describe_network(run))
        learned, held_out = (open_cases(run, cases) for cases in split_fold(run, fold))
        lesson = Lesson(
            _drawing(run, spec, learned, device),
            hiding_loss,
            _validation(run, spec, held_out, device),
        )
        return Course(spec, lambda: build_network(spec), lesson)

    learn_fold(run, fold, make, training_key=lambda: training_key(run, fold))


def hide_cases(
    run: PretrainRun, spec: PretrainedSpec, cases: Sequence[Prepared], device: torch.device
) -> list[tuple[torch.Tensor, Hidden]]:
    """A patch of each case with parts hidden, always the same ones."""
    rng = np.random.default_rng([run.config.seed, _ELSEWHERE])
    generator = torch.Generator(device).manual_seed(_ELSEWHERE)
    patches = []
    for case in cases:
        images = draw_images([case], {}, rng, patch_size=spec.patch_size, batch_size=1)
        patches.append(_hide(run, spec, images.to(device), generator))
    return patches


def _hide(
    run: PretrainRun, spec: PretrainedSpec, images: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, Hidden]:
    section = run.config.train
    return hide_blocks(
        images, generator, share=section.hidden, block=section.block, spacing=spec.spacing_mm
    )


def _drawing(
    run: PretrainRun, spec: PretrainedSpec, cases: Sequence[Prepared], device: torch.device
) -> Any:
    """What `fit` calls for the next batch."""
    section = run.config.train
    held = hold_images(cases, device=device, budget_bytes=int(section.cache_gb * 1e9))
    batch_size = read_plan(run)["batch_size"]
    augmentation = Augmentation(**section.augment.model_dump())

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        images = draw_images(
            cases, held, rng, patch_size=spec.patch_size, batch_size=batch_size
        ).to(device)
        images = augment_images(images, generator, settings=augmentation, spacing=spec.spacing_mm)
        return _hide(run, spec, images, generator)

    return draw


def _validation(
    run: PretrainRun, spec: PretrainedSpec, cases: Sequence[Prepared], device: torch.device
) -> Any:
    """What `fit` calls after each epoch: how much of held-out cases' hidden parts is found out."""
    some = spread_over(cases, run.config.train.validation_cases)
    patches = hide_cases(run, spec, some, device)

    @torch.inference_mode()
    def validate(network: nn.Module) -> float | None:
        found = [explained(network(seen), hidden) for seen, hidden in patches]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else None

    return validate
