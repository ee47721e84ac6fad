"""Train: one fold held out, the network learns to label the cases of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from pipeline.classification import frozen
from pipeline.classification.answers import target_of
from pipeline.classification.keys import prepared_key, training_key, trunk_key
from pipeline.classification.medium import LabelSpec, find_medium
from pipeline.classification.scan_config import ScanModelSection
from pipeline.device import describe_device, find_device
from pipeline.keys import source_fold
from pipeline.learning import held_out_ids, split_fold, spread_over, training_settings
from pipeline.progress import track_epochs
from pipeline.provenance import record, record_time
from pipeline.run import LabelRun, PretrainClipsRun
from volumetric.cases import Case
from volumetric.errors import ConfigError, OutputError
from volumetric.folds import draw_share
from volumetric.io.prepared import Prepared, open_prepared
from volumetric.labelled import LabelledCase, draw_chances, open_labelled
from volumetric.learning import Lesson, fit
from volumetric.losses import Loss, classification_loss
from volumetric.model import Model, load_any_spec, save_fold, start_from
from volumetric.models import SliceNetwork
from volumetric.networks import build_network
from volumetric.spec import ClassifierSpec

_INPUT = ("input", "normalise")
_N_WATCHED = 64  # held-out clips whose accuracy is looked at after each epoch
_SEEDS_APART = 1_000_003  # of members, so that no two of near seeds are alike


def train(run: LabelRun, fold: int) -> None:
    """Write folds/<fold>/{last.ckpt,history.csv} and model/fold_<fold>.safetensors.

    Goes on from the last epoch where an earlier run with the same settings stopped.

    Raises:
        ManifestError: no labelled case is left to learn from.
        ConfigError: a share is asked for of cases with several labels.
        TrainingError: the loss is not finite any more.
        DeviceError: the device is not there.
        OutputError: a case has not been prepared for the present plan.
        ConfigError, DownloadError, UnreadableFileError, UnsupportedError: no such weights.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, f"train fold {fold}"):
        record(run.folder, device=describe_device(device))
        spec = find_medium(run).make_spec(run)
        settings = training_settings(run)
        key, trunk = training_key(run, fold), trunk_key(run, fold)
        torch.manual_seed(settings.seed)
        network = start_network(run, spec, fold).to(device)
        cases = split_cases(run, fold)
        lesson = _lesson(run, network, spec, cases=cases, trunk=trunk)
        frozen_trunk = run.config.model.trunk == "frozen"
        learners = cast(SliceNetwork, network).heads if frozen_trunk else [network]
        for member, learner in enumerate(learners):
            folder = run.fold(fold) / f"member_{member}" if member else run.fold(fold)
            own = replace(settings, seed=settings.seed + _SEEDS_APART * member)
            rows = fit(learner, lesson, settings=own, folder=folder, key=key)
            track_epochs(rows, own, fold=fold)
        facts = {"key": key, "held_out": held_out_ids(run, fold)}
        save_fold(run.model, fold, network, spec=spec, facts=facts)


def start_network(run: LabelRun | PretrainClipsRun, spec: LabelSpec, fold: int) -> nn.Module:
    """The network with the weights that the configuration names, of a model folder that fold's.

    Raises:
        ConfigError, DownloadError, UnreadableFileError, UnsupportedError: no such weights.
    """
    model = run.config.model
    checkpoint = isinstance(model, ScanModelSection) and model.checkpoint
    folder = model.weights_folder
    if folder is None:
        return build_network(spec, weights=model.weights, checkpoint=checkpoint)
    network, source = build_network(spec, checkpoint=checkpoint), load_any_spec(folder)
    start_from(network, folder, fold=source_fold(run, folder, source, fold), of=type(spec))
    _refuse_other_input(source, spec, folder)
    return network


def _refuse_other_input(source: Any, spec: LabelSpec, folder: Path) -> None:
    """Weights see what they learned from: refuse what they would be shown in another way.

    Raises:
        ConfigError: names what differs.
    """
    if isinstance(spec, ClassifierSpec):
        pairs = {name: (getattr(source, name), getattr(spec, name)) for name in _INPUT}
    else:
        pairs = {"intensity": (source.intensity["kind"], spec.intensity["kind"])}
    differing = [f"{name} {a} in place of {b}" for name, (a, b) in pairs.items() if a != b]
    if differing:
        raise ConfigError(
            "other-input",
            f"learned from other input than it would be shown: {', '.join(differing)}",
            "Choose the same",
            path=folder,
        )


def split_cases(run: LabelRun, fold: int) -> tuple[list[Case], list[Case]]:
    """The cases to learn from, or the share of them that is asked for, and those held out.

    Raises:
        ManifestError: none is left to learn from.
        ConfigError: a share is asked for of cases with several labels.
    """
    learned, held_out = split_fold(run, fold, what="case with a label")
    if run.config.train.share < 1 and run.data_set.multi_label:
        raise ConfigError(
            "share-of-many-labels",
            "train.share draws by class, and cases of this data set have several",
            "Use share 1, or take cases out of the manifest",
        )
    learned = draw_share(learned, run.config.train.share, seed=run.config.seed)
    return learned, held_out


def read_prepared(run: LabelRun | PretrainClipsRun, case: Case) -> Prepared:
    """The prepared clip or scan of a case.

    Raises:
        OutputError: it was prepared for another plan, or from other bytes.
    """
    found = open_prepared(run.prepared / f"{case.id}.safetensors")
    if found.facts["key"] != prepared_key(run, case):
        raise OutputError(
            "stale-prepared",
            "was prepared for another plan, or from other bytes",
            "Run `volumetric prepare` to its end first",
            path=found.path,
        )
    return found


def _lesson(
    run: LabelRun,
    network: nn.Module,
    spec: LabelSpec,
    *,
    cases: tuple[Sequence[Case], Sequence[Case]],
    trunk: str,
) -> Lesson:
    """What the network learns from some cases, watched on others: of images, or of features.

    `trunk` is the key of what features come from.
    """
    learned, held_out = cases
    device = next(network.parameters()).device
    targets = torch.stack([_target(run, case) for case in learned])
    chances = draw_chances(targets, balance=run.config.train.balance)
    loss = make_loss(run, torch.from_numpy(chances).to(targets) @ targets)
    if run.config.model.trunk == "train":
        draw = find_medium(run).drawing(run, spec, _sources(run, learned), chances, device)
        return Lesson(draw, loss, _validation(run, spec, held_out))
    assert isinstance(network, SliceNetwork)
    sources = _sources(run, [*learned, *held_out], budget_bytes=0)
    seen = frozen.see_cases(run, network, sources, spec=spec, key=trunk)
    frozen.set_spread(network, seen[: len(learned)])
    draw = frozen.drawing(run, seen[: len(learned)], chances, device)
    return Lesson(draw, loss, frozen.validation(run, seen[len(learned) :]))


def _target(run: LabelRun, case: Case) -> torch.Tensor:
    data_set = run.data_set
    target = target_of(case, data_set.labels, multi_label=data_set.multi_label)
    return torch.from_numpy(target)


def _sources(
    run: LabelRun, cases: Sequence[Case], *, budget_bytes: int | None = None
) -> list[LabelledCase]:
    if budget_bytes is None:
        budget_bytes = int(run.config.train.cache_gb * 1e9)
    return open_labelled(
        [read_prepared(run, case) for case in cases],
        [_target(run, case) for case in cases],
        budget_bytes=budget_bytes,
    )


def make_loss(run: LabelRun, drawn: torch.Tensor) -> Loss:
    """Of logits and soft targets, where classes are drawn with the frequencies (n_classes,)."""
    section = run.config.train
    return classification_loss(
        drawn,
        multi_label=run.data_set.multi_label,
        label_smoothing=section.label_smoothing,
        adjust_logits=section.adjust_logits,
        class_weights=section.class_weights,
        gamma=section.focal_gamma if section.loss == "focal" else 0.0,
    )


def _validation(run: LabelRun, spec: LabelSpec, cases: Sequence[Case]) -> Any:
    """What `fit` calls after each epoch: how often the class of some held-out cases is found.

    One view each. For several labels a case, how often each label is right.
    """
    medium = find_medium(run)
    some = spread_over(cases, _N_WATCHED)
    sources = _sources(run, some)

    def validate(network: nn.Module) -> float | None:
        hits = []
        for source in sources:
            model: Any = Model(spec, [network])
            found = medium.label(run, model, source.read(), True).probabilities
            truth = source.target.numpy()
            right = (found > 0.5) == truth if spec.multi_label else truth[found.argmax()]
            hits.append(float(np.mean(right)))
        return float(np.mean(hits)) if hits else None

    return validate
