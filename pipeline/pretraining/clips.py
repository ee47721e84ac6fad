"""Pretraining on clips: a network says how fast and which way they are shown, and is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.classification.augmentation import choose_augmentation
from pipeline.classification.clips import change_clips, describe_input
from pipeline.classification.train import read_prepared, start_network
from pipeline.device import find_device
from pipeline.keys import refuse_stale
from pipeline.learning import Course, learn_fold, split_fold, spread_over
from pipeline.pretraining.evaluate import tell_score, write_scores
from pipeline.pretraining.keys import clips_key
from pipeline.provenance import record_time
from pipeline.run import PretrainClipsRun
from volumetric.cases import Case
from volumetric.inference.clips import frame_boxes, present, show_clips
from volumetric.labelled import LabelledCase, open_labelled
from volumetric.learning import Lesson
from volumetric.model import load_classifier
from volumetric.pacing import draw_paces, name_paces
from volumetric.spec import ClassifierSpec

_ELSEWHERE = 7_919  # another seed than any epoch's
_SHOWN = 8  # times that each held-out clip is shown, at paces and ways drawn


def train(run: PretrainClipsRun, fold: int) -> None:
    """Write folds/<fold>/{last.ckpt,history.csv} and model/fold_<fold>.safetensors.

    Goes on from the last epoch where an earlier run with the same settings stopped.

    Raises:
        ManifestError: no clip is left to learn from.
        TrainingError: the loss is not finite any more.
        DeviceError: the device is not there.
        OutputError: a clip has not been prepared for the present plan.
        ConfigError, DownloadError, UnreadableFileError, UnsupportedError: no such weights.
    """

    def make(device: torch.device) -> Course:
        spec = _spec(run)
        learned, held_out = split_fold(run, fold, what="clip")
        some = spread_over(held_out, run.config.train.validation_cases)
        lesson = Lesson(
            _drawing(run, spec, learned, device), F.cross_entropy, _validation(run, spec, some)
        )
        return Course(spec, lambda: start_network(run, spec, fold), lesson)

    learn_fold(run, fold, make, training_key=lambda: clips_key(run, fold))


def evaluate(run: PretrainClipsRun) -> None:
    """Write results.json and scores.csv: how often pace and way of held-out clips are found out.

    Raises:
        OutputError: no fold has been trained with the present settings.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, "evaluate"):
        scored: list[dict[str, Any]] = []
        for fold in run.folds():
            model = load_classifier(run.model, device=device, folds=[fold])
            refuse_stale(run, model.spec.folds, fold, key=clips_key(run, fold))
            cases = [case for case in run.labelled_cases() if case.fold == fold]
            rights = _guess(run, model.spec, _sources(run, cases), model.networks[0])
            scored += [
                tell_score(case, "top1", right) for case, right in zip(cases, rights, strict=True)
            ]
        write_scores(run, scored, "top1")


def _spec(run: PretrainClipsRun) -> ClassifierSpec:
    paces = name_paces(run.config.train.paces)
    about = {**describe_input(run), "sampling": "dense"}
    return ClassifierSpec(**about, classes=paces, multi_label=False, pretrained=True)


def _sources(run: PretrainClipsRun, cases: Sequence[Case]) -> list[LabelledCase]:
    prepared = [read_prepared(run, case) for case in cases]
    nothing = [torch.zeros(0)] * len(prepared)
    return open_labelled(prepared, nothing, budget_bytes=int(run.config.train.cache_gb * 1e9))


def _drawing(
    run: PretrainClipsRun, spec: ClassifierSpec, cases: Sequence[Case], device: torch.device
) -> Any:
    """What `fit` calls for the next batch: network input, and numbers of paces."""
    sources, settings = _sources(run, cases), choose_augmentation(run)

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        clips, numbers = draw_paces(
            sources, rng, **_showing(run), batch_size=run.config.train.batch_size
        )
        images = change_clips(clips, generator, settings=settings, spec=spec)
        return present(images, spec), numbers.to(device)

    return draw


def _showing(run: PretrainClipsRun) -> dict[str, Any]:
    model = run.config.model
    return {"length": model.frames, "stride": model.stride, "paces": run.config.train.paces}


def _validation(run: PretrainClipsRun, spec: ClassifierSpec, cases: Sequence[Case]) -> Any:
    """What `fit` calls after each epoch: how often pace and way of held-out clips are found out."""
    sources = _sources(run, cases)

    def validate(network: nn.Module) -> float | None:
        rights = _guess(run, spec, sources, network)
        return float(np.mean(rights)) if rights else None

    return validate


@torch.inference_mode()
def _guess(
    run: PretrainClipsRun,
    spec: ClassifierSpec,
    sources: Sequence[LabelledCase],
    network: nn.Module,
) -> list[float]:
    """Of each clip how often pace and way are right, of the same ones each time."""
    device = next(network.parameters()).device
    rng = np.random.default_rng([run.config.seed, _ELSEWHERE])
    rights = []
    for source in sources:
        clips, numbers = draw_paces([source], rng, **_showing(run), batch_size=_SHOWN)
        boxes = torch.tensor(frame_boxes(*clips[0].shape[2:], spec=spec, crops=1))
        images = show_clips(torch.stack(clips).to(device), spec, boxes.expand(len(clips), -1))
        found = network(images).argmax(1).cpu()
        rights.append(float((found == numbers).float().mean()))
    return rights
