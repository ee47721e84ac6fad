"""Explain: what spoke for the answer in the cases that a person will look at first."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open

from pipeline.classification.keys import prediction_key
from pipeline.classification.medium import LabelSpec, find_medium
from pipeline.classification.predict import predicted_cases, prediction_path
from pipeline.classification.train import read_prepared
from pipeline.device import find_device
from pipeline.files import hash_code, hash_values, read_json
from pipeline.progress import each_in_threads
from pipeline.provenance import record_time
from pipeline.run import LabelRun
from volumetric.cases import Case
from volumetric.errors import UnreadableFileError
from volumetric.explanation import Explanation, explain
from volumetric.io.tensors import read_about, write_tensors
from volumetric.volume import Volume

_LOG = logging.getLogger("volumetric")


@dataclass(frozen=True, eq=False)
class Explained:
    """What spoke for a class in one case.

    Attributes:
        seen: what the network saw, as a picture: a scan, or the frames of a clip.
        heat: (D, H, W) on the same grid, from 0 to 1.
        weights: (D,), what each slice or frame counted for; None where none did.
        facts: "class"; "slices_by" and "reason", as `volumetric.explanation.Explanation` has
            them.
    """

    seen: Volume
    heat: torch.Tensor
    weights: torch.Tensor | None
    facts: dict[str, Any]


def explain_cases(run: LabelRun, ids: Sequence[str]) -> None:
    """Write explanations/<case>.safetensors of these cases, of the class each was given.

    What stands and was made by the same weights is left. A case that cannot be explained is left
    out: the reason is in the log.

    Raises:
        DeviceError: the device is not there.
    """
    cases = [case for case in predicted_cases(run) if case.id in set(ids)]
    with record_time(run.folder, "explain"):
        device = find_device(run.config.device)
        for fold in sorted({case.fold for case in cases if case.fold is not None}):
            model = find_medium(run).load(run.model, device=device, folds=[fold])
            own = [case for case in cases if case.fold == fold and not _stands(run, model, case)]
            for case, error in each_in_threads(1)(partial(_explain, run, model), own, "explain"):
                if error is not None:  # it has no picture then
                    _LOG.warning("%s is not explained: %s", case.id, error)


def read_explained(path: Path) -> Explained | None:
    """What was written of a case; None where there is nothing.

    Raises:
        UnreadableFileError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(
            "unreadable-explanation",
            f"cannot be read ({error})",
            "Remove it, and run `volumetric report` again",
            path=path,
        ) from error
    affine = tensors["affine"].numpy()
    seen = Volume(tensors["seen"], affine, facts["kind"])
    return Explained(seen, tensors["heat"].to(torch.float32), tensors.get("weights"), facts)


def explanation_path(folder: Path, name: str) -> Path:
    """Where a run keeps what spoke for a case's answer."""
    return folder / "explanations" / f"{name}.safetensors"


def _explain(run: LabelRun, model: Any, case: Case) -> None:
    medium, spec = find_medium(run), model.spec
    prepared = read_prepared(run, case)
    device = next(model.networks[0].parameters()).device
    shown = medium.show(prepared.read_image(), spec).to(device)
    target = _given(run, case, spec)
    found = explain(model.networks[0], shown[0], target=target)
    seen = medium.picture(prepared, spec)
    tensors = {
        "seen": seen.data,
        "affine": torch.from_numpy(seen.affine.copy()),
        "heat": _on_grid(found, seen).to(torch.float16),
    }
    if found.slice_weights is not None:
        tensors["weights"] = found.slice_weights
    facts = {
        "kind": seen.kind,
        "class": spec.classes[target],
        "slices_by": found.slices_by,
        "reason": found.reason,
    }
    about = {"key": _key(run, model, case), "facts": json.dumps(facts)}
    write_tensors(explanation_path(run.folder, case.id), tensors, about=about)


def _given(run: LabelRun, case: Case, spec: LabelSpec) -> int:
    """The class that the case was given, or comes nearest to."""
    probabilities = read_json(prediction_path(run, case))["probabilities"]
    return max(range(len(spec.classes)), key=lambda n: probabilities[spec.classes[n]])


def _on_grid(found: Explanation, seen: Volume) -> torch.Tensor:
    """The map where the picture's voxels are: slices may have been scaled for the network."""
    if found.map.shape == seen.shape:
        return found.map
    return F.interpolate(
        found.map[None], size=seen.shape[1:], mode="bilinear", align_corners=False
    )[0]


def _stands(run: LabelRun, model: Any, case: Case) -> bool:
    found = read_about(explanation_path(run.folder, case.id)).get("key")
    return found == _key(run, model, case)


def _key(run: LabelRun, model: Any, case: Case) -> str:
    code = hash_code("explanation", "inference")
    return hash_values(prediction_key(run, case, model.spec), code)
