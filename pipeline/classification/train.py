"""Train: one fold held out, the network learns to label the clips of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.classification import frozen
from pipeline.classification.augmentation import choose_augmentation
from pipeline.classification.keys import prepared_key, training_key
from pipeline.device import describe_device, find_device
from pipeline.files import read_json
from pipeline.keys import read_plan
from pipeline.progress import track_epochs
from pipeline.provenance import record, record_time
from pipeline.run import ClassifyRun
from volumetric.cases import Case
from volumetric.clip_augment import (
    augment_clips,
    mix_clips,
    sample_changes,
    sample_mix,
)
from volumetric.clip_dataset import ClipSource, draw_chances, draw_clips, open_clips
from volumetric.errors import ManifestError, OutputError
from volumetric.inference.clips import classify_clip, present
from volumetric.io.prepared import Prepared, open_prepared
from volumetric.learning import Lesson, Training, fit
from volumetric.losses import Loss, classification_loss
from volumetric.model import Model, save_fold
from volumetric.models import SliceNetwork
from volumetric.spec import ClassifierSpec, build_network

_COLOURS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
}
_N_WATCHED = 64  # held-out clips whose accuracy is looked at after each epoch
_SEEDS_APART = 1_000_003  # of members, so that no two of near seeds are alike


def train(run: ClassifyRun, fold: int) -> None:
    """Write folds/<fold>/{last.ckpt,history.csv} and model/fold_<fold>.safetensors.

    Goes on from the last epoch where an earlier run with the same settings stopped.

    Raises:
        ManifestError: no labelled case is left to learn from.
        TrainingError: the loss is not finite any more.
        DeviceError: the device is not there.
        OutputError: a case has not been prepared for the present plan.
        ConfigError, DownloadError, UnreadableFileError, UnsupportedError: no such weights.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, f"train fold {fold}"):
        record(run.folder, device=describe_device(device))
        spec = make_spec(run)
        section = run.config.train.model_dump()
        chosen = {name: section[name] for name in Training.__dataclass_fields__ if name in section}
        settings = Training(**chosen, seed=run.config.seed)
        torch.manual_seed(settings.seed)
        network = build_network(spec, weights=run.config.model.weights).to(device)
        key = training_key(run, fold)
        cases = _split(run, fold)
        lesson = _lesson(run, network, spec, cases=cases)
        frozen_trunk = run.config.model.trunk == "frozen"
        learners = cast(SliceNetwork, network).heads if frozen_trunk else [network]
        for member, learner in enumerate(learners):
            folder = run.fold(fold) / f"member_{member}" if member else run.fold(fold)
            own = replace(settings, seed=settings.seed + _SEEDS_APART * member)
            rows = fit(learner, lesson, settings=own, folder=folder, key=key)
            track_epochs(rows, own, fold=fold)
        save_fold(run.model, fold, network, spec=spec, facts={"key": key})


def make_spec(run: ClassifyRun) -> ClassifierSpec:
    """What the configuration and the plan say of the network."""
    plan, provenance = read_plan(run), read_json(run.folder / "provenance.json")
    model, protocol = run.config.model, run.config.predict
    mean, std = _COLOURS["kinetics" if model.weights == "kinetics" else "imagenet"]
    return ClassifierSpec(
        **model.model_dump(exclude={"weights", "trunk"}),
        members=run.config.train.members,
        classes=list(run.data_set.labels),
        multi_label=run.data_set.multi_label,
        rate=plan["rate"],
        short_side=plan["short_side"],
        mean=list(mean),
        std=list(std),
        views=protocol.views,
        crops=protocol.crops,
        fingerprint=read_json(run.folder / "fingerprint.json"),
        about={
            "name": run.config.name,
            "data_set": run.data_set.name,
            "licence": run.data_set.licence,
            **{name: provenance[name] for name in ("commit", "versions", "manifest")},
        },
    )


def target_of(run: ClassifyRun, case: Case) -> torch.Tensor:
    """1 for each label the case has, else 0: float32 (n_labels,)."""
    label = case.label or ""
    own = {one.strip() for one in label.split(";")} if run.data_set.multi_label else {label}
    return torch.tensor([float(name in own) for name in run.data_set.labels])


def _split(run: ClassifyRun, fold: int) -> tuple[list[Case], list[Case]]:
    cases = run.labelled_cases()
    learned = [case for case in cases if case.fold != fold]
    if not learned:
        raise ManifestError(
            "nothing-to-learn",
            f"no usable case with a label lies outside fold {fold}",
            "Add cases, or see quarantine.json for those set apart",
            path=run.manifest,
        )
    return learned, [case for case in cases if case.fold == fold]


def read_prepared(run: ClassifyRun, case: Case) -> Prepared:
    """The prepared clip of a case.

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
    run: ClassifyRun,
    network: nn.Module,
    spec: ClassifierSpec,
    *,
    cases: tuple[Sequence[Case], Sequence[Case]],
) -> Lesson:
    """What the network learns from some cases, watched on others: of clips, or of features."""
    learned, held_out = cases
    device = next(network.parameters()).device
    targets = torch.stack([target_of(run, case) for case in learned])
    chances = draw_chances(targets, balance=run.config.train.balance)
    loss = make_loss(run, torch.from_numpy(chances).to(targets) @ targets)
    if run.config.model.trunk == "train":
        draw = _drawing(run, spec, (_sources(run, learned), chances), device)
        return Lesson(draw, loss, _validation(run, spec, held_out))
    assert isinstance(network, SliceNetwork)
    clips = _sources(run, [*learned, *held_out], budget_bytes=0)
    seen = frozen.see_clips(run, network, clips, spec=spec)
    frozen.set_spread(network, seen[: len(learned)])
    draw = frozen.drawing(run, seen[: len(learned)], chances, device)
    return Lesson(draw, loss, frozen.validation(run, seen[len(learned) :]))


def _sources(
    run: ClassifyRun, cases: Sequence[Case], *, budget_bytes: int | None = None
) -> list[ClipSource]:
    if budget_bytes is None:
        budget_bytes = int(run.config.train.cache_gb * 1e9)
    return open_clips(
        [read_prepared(run, case) for case in cases],
        [target_of(run, case) for case in cases],
        budget_bytes=budget_bytes,
    )


def _drawing(
    run: ClassifyRun,
    spec: ClassifierSpec,
    clips: tuple[Sequence[ClipSource], NDArray[np.float64]],
    device: torch.device,
) -> Any:
    """What `fit` calls for the next batch: network input, and soft targets."""
    section = run.config.train
    sources, chances = clips
    settings = choose_augmentation(run)

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        clips, targets = draw_clips(
            sources,
            rng,
            spec=spec,
            batch_size=section.batch_size,
            chances=chances,
            jitter=settings.jitter,
        )
        parts = []
        for clip in _stacked(clips):
            batch = clip.to(device)
            changes = sample_changes(batch, generator, settings=settings)
            parts.append(augment_clips(batch, changes, size=(spec.size, spec.size)))
        mix = sample_mix(len(clips), generator, settings=settings)
        images, targets = mix_clips(
            torch.cat(parts), targets.to(device), mix, n_classes=len(spec.classes)
        )
        return present(images, spec), targets

    return draw


def _stacked(clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One batch where all clips have one size, which is faster; else a batch a clip."""
    if len({clip.shape for clip in clips}) == 1:
        return [torch.stack(list(clips))]
    return [clip[None] for clip in clips]


def make_loss(run: ClassifyRun, drawn: torch.Tensor) -> Loss:
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


def _validation(run: ClassifyRun, spec: ClassifierSpec, cases: Sequence[Case]) -> Any:
    """What `fit` calls after each epoch: how often the class of some held-out clips is found.

    One central view each. For several labels a clip, how often each label is right.
    """
    some = list(cases)[:: max(1, -(-len(cases) // _N_WATCHED))]
    sources = _sources(run, some)

    def validate(network: nn.Module) -> float | None:
        hits = []
        for source in sources:
            model = Model(spec, [network])
            found = classify_clip(model, source.read(), views=1, crops=1).probabilities
            truth = source.target.numpy()
            right = (found > 0.5) == truth if spec.multi_label else truth[found.argmax()]
            hits.append(float(np.mean(right)))
        return float(np.mean(hits)) if hits else None

    return validate
