"""What clips and scans do differently while a network learns from them and labels them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from pipeline.classification import clips, scans
from pipeline.run import LabelRun
from volumetric.inference.clips import ClipScores
from volumetric.io.prepared import Prepared
from volumetric.labelled import LabelledCase
from volumetric.spec import ClassifierSpec, ScanClassifierSpec
from volumetric.volume import Volume

LabelSpec = ClassifierSpec | ScanClassifierSpec


@dataclass(frozen=True)
class Medium:
    """What the stages call.

    Attributes:
        make_spec: what the configuration and the plan say of the network.
        drawing: what `fit` calls for the next batch of changed images, and soft targets.
        show: a prepared case as the network is shown it, (1, C, D, H, W).
        picture: the same as a person is shown it, slice by slice or frame by frame.
        label: what a model says of a prepared case; the last argument asks for one quick look
            instead of the whole test protocol.
        load: the model in a folder.
        describe_protocol: how cases are tested: at least views, crops and mirrored, whose product
            is the number of views of a case.
    """

    make_spec: Callable[[Any], LabelSpec]
    drawing: Callable[
        [Any, Any, Sequence[LabelledCase], NDArray[Any], torch.device], Callable[..., Any]
    ]
    show: Callable[[torch.Tensor, Any], torch.Tensor]
    picture: Callable[[Prepared, Any], Volume]
    label: Callable[[Any, Any, torch.Tensor, bool], ClipScores]
    load: Callable[..., Any]
    describe_protocol: Callable[[Any], dict[str, Any]]


def find_medium(run: LabelRun) -> Medium:
    """What the run's cases are."""
    if run.config.task == "classify_scans":
        return Medium(
            scans.make_spec,
            scans.drawing,
            scans.show,
            scans.picture,
            scans.label,
            scans.load,
            scans.describe_protocol,
        )
    return Medium(
        clips.make_spec,
        clips.drawing,
        clips.show,
        clips.picture,
        clips.label,
        clips.load,
        clips.describe_protocol,
    )
