"""The model folder: what a run exports, and all that prediction needs. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from volumetric.errors import ConfigError, OutputError, UnreadableFileError
from volumetric.networks import build_network
from volumetric.spec import (
    AnySpec,
    ClassifierSpec,
    DetectorSpec,
    ModelSpec,
    PretrainedSpec,
    ScanClassifierSpec,
)
from volumetric.transfer import head_of

_FORMAT = 1
# What two networks need not share.
_HOW_USED = (
    *("fingerprint", "about", "folds", "keep_largest"),
    *("least_voxels", "apart_mm"),
    *("overlap", "mirror_axes", "views", "crops", "suppress", "least_score"),
)
_TASKS: dict[str, type[AnySpec]] = {
    "segment": ModelSpec,
    "classify": ClassifierSpec,
    "classify_scans": ScanClassifierSpec,
    "detect": DetectorSpec,
    "pretrain": PretrainedSpec,
}
_USES: dict[type[AnySpec], tuple[str, str]] = {
    ModelSpec: ("segments", "Use `volumetric segment`"),
    ClassifierSpec: ("labels clips", "Use `volumetric recognize`"),
    ScanClassifierSpec: ("labels scans", "Use `volumetric classify`"),
    DetectorSpec: ("finds objects", "Use `volumetric detect`"),
    PretrainedSpec: (
        "learned without labels",
        "Name it as model.weights of a run that segments",
    ),
}

_Spec = TypeVar(
    "_Spec", ModelSpec, ClassifierSpec, ScanClassifierSpec, DetectorSpec, PretrainedSpec
)


@dataclass(frozen=True, eq=False)
class Model(Generic[_Spec]):
    """A specification with its networks, one a fold, in evaluation mode on one device."""

    spec: _Spec
    networks: Sequence[nn.Module]


def save_fold(
    folder: Path, fold: int, network: nn.Module, *, spec: AnySpec, facts: Mapping[str, Any]
) -> None:
    """Write one fold's weights and describe them in `model.json`.

    Folds that stand there already stay, unless they were made for another network or another
    preparation: networks of two kinds are no ensemble. `facts` are noted beside the weights' hash.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    partial = folder / f".partial-fold_{fold}.safetensors"
    try:
        save_file(weights, partial)
    except SafetensorError as error:
        raise OutputError(
            "unwritable",
            f"cannot be written ({error})",
            "Check folder and free space",
            path=partial,
        ) from error
    partial.replace(_weights_path(folder, fold))
    folds: dict[str, Mapping[str, Any]] = {}
    if (folder / "model.json").exists():
        standing = load_any_spec(folder)
        if _essence(standing) == _essence(spec):
            folds = dict(standing.folds)
            if isinstance(spec, ModelSpec) and isinstance(standing, ModelSpec):
                spec = replace(spec, keep_largest=standing.keep_largest)
    sha256 = _hash(_weights_path(folder, fold))
    folds[str(fold)] = {"weights_sha256": sha256, **facts}
    save_spec(folder, replace(spec, folds=folds))


def save_spec(folder: Path, spec: AnySpec) -> None:
    """Write `model.json`."""
    partial = folder / ".partial-model.json"
    content = json.dumps({"format": _FORMAT, "task": _task(spec), **asdict(spec)}, indent=1)
    partial.write_text(content + "\n", encoding="utf-8")
    partial.replace(folder / "model.json")


def load_spec(folder: Path) -> ModelSpec:
    """What the `model.json` of a folder says, whose model segments.

    Raises:
        UnreadableFileError: missing, damaged, or of another format.
        ConfigError: the model does something else.
    """
    return _of_task(load_any_spec(folder), ModelSpec, folder)


def load_classifier_spec(folder: Path) -> ClassifierSpec:
    """What the `model.json` of a folder says, whose model labels whole clips; as `load_spec`."""
    return _of_task(load_any_spec(folder), ClassifierSpec, folder)


def load_scan_classifier_spec(folder: Path) -> ScanClassifierSpec:
    """What the `model.json` of a folder says, whose model labels whole scans; as `load_spec`."""
    return _of_task(load_any_spec(folder), ScanClassifierSpec, folder)


def load_model(
    folder: Path | str, *, device: str | torch.device = "cpu", folds: Sequence[int] | None = None
) -> Model[ModelSpec]:
    """The model in a folder, ready to segment; `folds` chooses some of its networks.

    Raises:
        UnreadableFileError: missing, damaged, changed since export, or of another format.
        ConfigError: a fold it does not have, or a model that does something else.
    """
    return _load(ModelSpec, Path(folder), device=device, folds=folds)


def load_classifier(
    folder: Path | str, *, device: str | torch.device = "cpu", folds: Sequence[int] | None = None
) -> Model[ClassifierSpec]:
    """The model in a folder, ready to label clips; as `load_model`."""
    return _load(ClassifierSpec, Path(folder), device=device, folds=folds)


def load_scan_classifier(
    folder: Path | str, *, device: str | torch.device = "cpu", folds: Sequence[int] | None = None
) -> Model[ScanClassifierSpec]:
    """The model in a folder, ready to label scans; as `load_model`."""
    return _load(ScanClassifierSpec, Path(folder), device=device, folds=folds)


def load_detector(
    folder: Path | str, *, device: str | torch.device = "cpu", folds: Sequence[int] | None = None
) -> Model[DetectorSpec]:
    """The model in a folder, ready to find objects; as `load_model`."""
    return _load(DetectorSpec, Path(folder), device=device, folds=folds)


def load_detector_spec(folder: Path) -> DetectorSpec:
    """What the `model.json` of a folder says, whose model finds objects; as `load_spec`."""
    return _of_task(load_any_spec(folder), DetectorSpec, folder)


def load_pretrained_spec(folder: Path) -> PretrainedSpec:
    """What the `model.json` of a folder says, which learned without labels; as `load_spec`."""
    return _of_task(load_any_spec(folder), PretrainedSpec, folder)


def load_pretrained(
    folder: Path | str, *, device: str | torch.device = "cpu", folds: Sequence[int] | None = None
) -> Model[PretrainedSpec]:
    """The model in a folder, which learned without labels; as `load_model`."""
    return _load(PretrainedSpec, Path(folder), device=device, folds=folds)


def start_from(
    network: nn.Module,
    folder: Path,
    *,
    fold: str,
    of: type[Any] = PretrainedSpec,
) -> None:
    """Give a network what another has learned in a fold, all but its head.

    Raises:
        UnreadableFileError: no model folder, or damaged.
        ConfigError: a model that does something else, or not of this network: names what differs.
    """
    spec = _of_task(load_any_spec(folder), of, folder)
    path = _weights_path(folder, int(fold))
    known = _load_network(spec, path, spec.folds[fold]["weights_sha256"]).state_dict()
    own = network.state_dict()
    head = f"{head_of(network)}."
    known, wanted = (
        {name: value for name, value in one.items() if not name.startswith(head)}
        for one in (known, own)
    )
    differing = sorted(
        name
        for name in known.keys() | wanted.keys()
        if name not in known or name not in wanted or known[name].shape != wanted[name].shape
    )
    if differing:
        raise ConfigError(
            "other-network",
            f"holds another network: {len(differing)} weights differ, {differing[0]} first",
            "Use model.kind and the sizes that it was trained with",
            path=folder,
        )
    network.load_state_dict({**own, **known})


def load_any_spec(folder: Path) -> AnySpec:
    """What the `model.json` of a folder says, whatever its model does; as `load_spec`."""
    path = folder / "model.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != _FORMAT:
            raise ValueError("format of another version")
        task = found.pop("task", "segment")
        for name in ("patch_size", "spacing_mm", "shape"):
            if name in found:
                found[name] = tuple(found[name])
        for name in ("strides", "kernels"):
            if name in found:
                found[name] = [tuple(row) for row in found[name]]
        if task == "segment":
            found["classes"] = {int(label): name for label, name in found["classes"].items()}
        spec = _TASKS[task](**found)
        _check_facts(spec)
        return spec
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableFileError(
            "unreadable-model",
            f"is no model folder ({error})",
            f"Name {folder / 'model'}" if (folder / "model").exists() else "Name a run's `model`",
            path=path,
        ) from error


def _check_facts(spec: AnySpec) -> None:
    """Raise where facts of the model or of a fold are none."""
    for about in (spec.about, spec.folds, *spec.folds.values()):
        if not isinstance(about, dict):
            raise TypeError(f"{about!r} where facts should be")
    for name, facts in spec.folds.items():
        if int(name) < 0 or not isinstance(facts["weights_sha256"], str):
            raise ValueError(f"fold {name} has no hash of weights")


def _load(
    kind: type[_Spec], folder: Path, *, device: str | torch.device, folds: Sequence[int] | None
) -> Model[_Spec]:
    spec = _of_task(load_any_spec(folder), kind, folder)
    return Model(spec, _load_networks(spec, folder, device=device, folds=folds))


def _of_task(spec: AnySpec, wanted: type[_Spec], folder: Path) -> _Spec:
    if isinstance(spec, wanted):
        return spec
    does, remedy = _USES[type(spec)]
    raise ConfigError("other-task", f"holds a model that {does}", remedy, path=folder)


def _task(spec: AnySpec) -> str:
    return next(task for task, kind in _TASKS.items() if isinstance(spec, kind))


def _load_networks(
    spec: AnySpec,
    folder: Path,
    *,
    device: str | torch.device,
    folds: Sequence[int] | None,
) -> list[nn.Module]:
    wanted = sorted(spec.folds) if folds is None else [str(fold) for fold in folds]
    if not wanted or not set(wanted) <= set(spec.folds):
        raise ConfigError(
            "no-such-fold",
            f"has folds {sorted(spec.folds)}, {wanted or 'any'} were asked for",
            "Train that fold first",
            path=folder,
        )
    networks = [
        _load_network(spec, _weights_path(folder, int(fold)), spec.folds[fold]["weights_sha256"])
        for fold in wanted
    ]
    return [network.to(device).eval() for network in networks]


def _essence(spec: AnySpec) -> dict[str, Any]:
    """What two networks must share to be averaged."""
    values = asdict(spec)
    for name in _HOW_USED:
        values.pop(name, None)
    essence: dict[str, Any] = json.loads(json.dumps(values))
    return essence


def _load_network(spec: AnySpec, path: Path, expected: str) -> nn.Module:
    network = build_network(spec)
    try:
        if _hash(path) != expected:
            raise ValueError("its bytes differ from those exported")
        network.load_state_dict(load_file(path))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnreadableFileError(
            "unreadable-weights",
            f"cannot be loaded ({error})",
            "Copy or export it again",
            path=path,
        ) from error
    return network


def _weights_path(folder: Path, fold: int) -> Path:
    return folder / f"fold_{fold}.safetensors"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
