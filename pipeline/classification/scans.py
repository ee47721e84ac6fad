"""Scans, where they differ from clips: what the network is, sees and says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.classification.augmentation import (
    choose_mixing,
    choose_scan_augmentation,
    tested_axes,
)
from pipeline.files import read_json
from pipeline.keys import read_plan
from pipeline.run import ClassifyScansRun, describe_origin
from volumetric.augment import augment_images
from volumetric.clip_augment import mix_clips, sample_mix
from volumetric.errors import ConfigError
from volumetric.inference.clips import ClipScores
from volumetric.inference.scans import classify_scan, show_scans
from volumetric.io.prepared import Prepared
from volumetric.labelled import LabelledCase, draw_whole
from volumetric.model import Model, load_scan_classifier, load_scan_classifier_spec
from volumetric.models.backbones import Statistics, input_statistics
from volumetric.network_names import MedicalNetwork
from volumetric.spec import ScanClassifierSpec
from volumetric.volume import Volume

load = load_scan_classifier


def make_spec(run: ClassifyScansRun) -> ScanClassifierSpec:
    """What the configuration and the plan say of the network.

    Raises:
        ConfigError: mirror images are asked for that the manifest does not allow, or weights that
            learned from other intensities.
    """
    plan, model = read_plan(run), run.config.model
    fingerprint = read_json(run.folder / "fingerprint.json")
    if model.weights_folder is None:
        (mean,), (std,) = _statistics(model.kind, model.weights, plan["intensity"]["kind"])
    else:
        source = load_scan_classifier_spec(model.weights_folder)
        mean, std = source.mean, source.std
    return ScanClassifierSpec(
        **model.model_dump(exclude={"weights", "trunk", "checkpoint"}),
        members=run.config.train.members,
        classes=list(run.data_set.labels),
        multi_label=run.data_set.multi_label,
        n_channels=fingerprint["n_channels"],
        shape=tuple(plan["shape"]),
        spacing_mm=tuple(plan["spacing_mm"]),
        intensity=plan["intensity"],
        mean=mean,
        std=std,
        mirror_axes=tested_axes(run),
        fingerprint=fingerprint,
        about=describe_origin(run),
    )


def _statistics(kind: str, weights: str, scheme: str) -> Statistics:
    """Mean and spread that input is normalised by, beyond the scheme of intensities.

    Values from 0 to 1 are brought to where photographs or videos had them, for weights learned from
    those; other schemes centre values themselves, as MedicalNet's weights are used to.
    """
    if weights == "none" or scheme != "range":
        return (0.0,), (1.0,)
    if kind in get_args(MedicalNetwork):
        raise ConfigError(
            "other-intensities",
            f"weights of {kind} learned from values centred at 0, and intensity range is 0 to 1",
            "Set prepare.intensity to zscore",
        )
    return input_statistics("kinetics" if weights == "kinetics" else "imagenet", 1)


def drawing(
    run: ClassifyScansRun,
    spec: ScanClassifierSpec,
    sources: Sequence[LabelledCase],
    chances: NDArray[np.float64],
    device: torch.device,
) -> Callable[..., Any]:
    """What `fit` calls for the next batch: network input, and soft targets."""
    settings, mixing = choose_scan_augmentation(run), choose_mixing(run)

    def draw(rng: np.random.Generator, generator: torch.Generator) -> Any:
        images, targets = draw_whole(
            sources, rng, batch_size=run.config.train.batch_size, chances=chances
        )
        images = augment_images(
            images.to(device), generator, settings=settings, spacing=spec.spacing_mm
        )
        mix = sample_mix(len(images), generator, settings=mixing)
        images, targets = mix_clips(images, targets.to(device), mix, n_classes=len(spec.classes))
        return show_scans(images, spec), targets

    return draw


def show(image: torch.Tensor, spec: ScanClassifierSpec) -> torch.Tensor:
    """A prepared scan (C, D, H, W) as the network is shown it, (1, C, D, H, W)."""
    return show_scans(image[None], spec)


def picture(prepared: Prepared, spec: ScanClassifierSpec) -> Volume:  # noqa: ARG001 - a medium's
    """A prepared scan as a person is shown it: its own voxels."""
    volume = prepared.read_volume()
    return volume.with_data(volume.data.to(torch.float32))


def label(
    run: ClassifyScansRun, model: Model[ScanClassifierSpec], image: torch.Tensor, quick: bool
) -> ClipScores:
    """What a model says of a prepared scan, by the run's test protocol; `quick`: of it alone."""
    return classify_scan(model, image, mirror_axes=() if quick else tested_axes(run))


def describe_protocol(run: ClassifyScansRun) -> dict[str, Any]:
    """How scans are tested."""
    return describe_views(make_spec(run))


def describe_views(spec: ScanClassifierSpec) -> dict[str, Any]:
    """The protocol of a model."""
    return {
        "views": 1,
        "crops": 1,
        "mirrored": 2 ** len(spec.mirror_axes),
        "shape": list(spec.shape),
        "spacing_mm": list(spec.spacing_mm),
        "slice_size": spec.slice_size,
    }
