"""Train: one fold held out, the network learns from the others, its weights are exported."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.detection.keys import training_key
from pipeline.keys import read_plan
from pipeline.learning import Course, describe_network, learn_fold, open_cases
from pipeline.run import DetectRun
from volumetric.augment import Augmentation
from volumetric.boxes import Objects
from volumetric.detection_loss import detection_loss
from volumetric.errors import ManifestError
from volumetric.inference.detect import put_together, read_cells
from volumetric.io.prepared import Prepared
from volumetric.learning import Batch, Draw, Lesson, Loss
from volumetric.metrics.detection import OVERLAPS, average_precision
from volumetric.networks import build_network
from volumetric.objects import augment_objects, draw_objects, open_objects
from volumetric.spec import DetectorSpec

_ELSEWHERE = 7_919  # another seed than any epoch's


def train(run: DetectRun, fold: int) -> None:
    """Write folds/<fold>/{last.ckpt,history.csv} and model/fold_<fold>.safetensors.

    Goes on from the last epoch where an earlier run with the same settings stopped.

    Raises:
        ManifestError: no case whose objects are known is left to learn from, or none has any.
        TrainingError: the loss is not finite any more.
        DeviceError: the device is not there.
        OutputError: a case has not been prepared for the present plan.
        ConfigError, DownloadError, UnreadableFileError, UnsupportedError: no such weights.
    """

    def make(device: torch.device) -> Course:
        spec = _spec(run)
        learned, held_out = _split(run, fold)
        draw = _drawing(run, spec, learned, device)
        loss: Loss = partial(detection_loss, hard_negatives=run.config.train.hard_negatives)
        if spec.kind == "faster_rcnn":
            draw, loss = partial(_draw_both, draw), _own_loss
        lesson = Lesson(draw, loss, _validation(run, spec, held_out, device))
        start = partial(build_network, spec, weights=run.config.model.weights)
        return Course(spec, start, lesson)

    learn_fold(run, fold, make, training_key=lambda: training_key(run, fold))


def _spec(run: DetectRun) -> DetectorSpec:
    plan, section = read_plan(run), run.config.predict
    return DetectorSpec(
        **describe_network(run),
        classes=list(run.data_set.classes.values()),
        n_levels=plan["n_levels"],
        width=run.config.model.head_features,
        box_size=plan.get("box_size"),
        backbone=run.config.model.encoder,
        slice_axis=plan.get("slice_axis", 0),
        overlap=section.overlap,
        suppress=section.suppress,
        least_score=section.least_score,
        mirror_axes=section.mirror_axes,
    )


def _split(run: DetectRun, fold: int) -> tuple[list[Prepared], list[Prepared]]:
    cases = run.labelled_cases()
    learned = open_cases(run, [case for case in cases if case.fold != fold])
    if not any(one.facts["labels"] for one in learned):
        what = "holds an object" if learned else "has boxes or a mask"
        raise ManifestError(
            "nothing-to-learn",
            f"no usable case outside fold {fold} {what}",
            "Add cases, or see quarantine.json for those set apart",
            path=run.manifest,
        )
    return learned, open_cases(run, [case for case in cases if case.fold == fold])


def _drawing(
    run: DetectRun, spec: DetectorSpec, cases: Sequence[Prepared], device: torch.device
) -> Any:
    """What `fit` calls for the next batch."""
    section = run.config.train
    sources = open_objects(cases, device=device, budget_bytes=int(section.cache_gb * 1e9))
    augmentation = Augmentation(**section.augment.model_dump(), elastic=0.0)
    batch_size = read_plan(run)["batch_size"]

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        images, targets = draw_objects(
            sources,
            rng,
            patch_size=spec.patch_size,
            batch_size=batch_size,
            foreground=section.foreground,
        )
        targets = [one.to(device) for one in targets]
        return augment_objects(
            images.to(device),
            targets,
            generator,
            settings=augmentation,
            spacing=spec.spacing_mm,
        )

    return draw


def _draw_both(draw: Draw, rng: np.random.Generator, generator: torch.Generator) -> Batch:
    """The next batch for a network that must know the targets to learn, and says its own loss."""
    images, targets = draw(rng, generator)
    return (images, [(one.boxes, one.labels) for one in targets]), None


def _own_loss(loss: torch.Tensor, _: None) -> torch.Tensor:
    return loss


def _validation(
    run: DetectRun, spec: DetectorSpec, cases: Sequence[Prepared], device: torch.device
) -> Any:
    """What `fit` calls after each epoch: AP at the lowest overlap on patches of held-out cases."""
    section = run.config.train
    sources = open_objects(cases, device=device, budget_bytes=0)
    patches = []
    if sources:
        images, targets = draw_objects(
            sources,
            np.random.default_rng([run.config.seed, _ELSEWHERE]),
            patch_size=spec.patch_size,
            batch_size=section.validation_patches,
            foreground=section.foreground,
        )
        patches = list(zip(images, targets, strict=True))

    @torch.inference_mode()
    def validate(network: nn.Module) -> float | None:
        found, truth = [], []
        for image, target in patches:
            cells = network(image[None].to(device))
            objects = read_cells(cells, 0, least=spec.least_score)
            found.append(put_together(objects, spec))
            truth.append(Objects(target.boxes.double().numpy(), target.labels.numpy()))
        if not patches:
            return None
        return average_precision(found, truth, n_classes=len(spec.classes), overlap=OVERLAPS[0])

    return validate
