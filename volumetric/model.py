"""The model folder: what a run exports, and all that prediction needs. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from volumetric.errors import ConfigError, OutputError, UnreadableFileError
from volumetric.models import UNet

Triple = tuple[int, int, int]

_FORMAT = 1


@dataclass(frozen=True)
class ModelSpec:
    """What `model.json` says.

    Attributes:
        kind: architecture, "unet" or "residual_unet".
        n_channels: channels of the image.
        classes: name of each label but background.
        features: channels of each stage.
        strides: stride of each stage.
        kernels: kernel of each stage.
        patch_size: window in voxels.
        spacing_mm: spacing the network works at.
        intensity: as `volumetric.preprocess.prepare` takes it.
        overlap: of sliding windows.
        mirror_axes: averaged in prediction.
        keep_largest: labels of which only the largest component is kept.
        fingerprint: of the training set.
        about: provenance: names, versions.
        folds: for each fold the hash of its weights, and "key", what they depended on.
    """

    kind: Literal["unet", "residual_unet"]
    n_channels: int
    classes: Mapping[int, str]
    features: Sequence[int]
    strides: Sequence[Triple]
    kernels: Sequence[Triple]
    patch_size: Triple
    spacing_mm: tuple[float, float, float]
    intensity: Mapping[str, Any]
    overlap: float = 0.5
    mirror_axes: Sequence[int] = ()
    keep_largest: Sequence[int] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    folds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """A specification with its networks, one a fold, in evaluation mode on one device."""

    spec: ModelSpec
    networks: Sequence[nn.Module]


def build_network(spec: ModelSpec) -> nn.Module:
    """A network as specified, with fresh weights from torch's global generator."""
    return UNet(
        spec.n_channels,
        len(spec.classes) + 1,
        features=spec.features,
        strides=spec.strides,
        kernels=spec.kernels,
        residual=spec.kind == "residual_unet",
    )


def save_fold(
    folder: Path, fold: int, network: nn.Module, *, spec: ModelSpec, facts: Mapping[str, Any]
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
        standing = load_spec(folder)
        if _essence(standing) == _essence(spec):
            folds = dict(standing.folds)
            spec = replace(spec, keep_largest=standing.keep_largest)
    sha256 = _hash(_weights_path(folder, fold))
    folds[str(fold)] = {"weights_sha256": sha256, **facts}
    save_spec(folder, replace(spec, folds=folds))


def save_spec(folder: Path, spec: ModelSpec) -> None:
    """Write `model.json`."""
    partial = folder / ".partial-model.json"
    content = json.dumps({"format": _FORMAT, **asdict(spec)}, indent=1)
    partial.write_text(content + "\n", encoding="utf-8")
    partial.replace(folder / "model.json")


def load_spec(folder: Path) -> ModelSpec:
    """What a model folder's `model.json` says.

    Raises:
        UnreadableFileError: missing, damaged, or of another format.
    """
    path = folder / "model.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != _FORMAT:
            raise ValueError("format of another version")
        for name in ("strides", "kernels"):
            found[name] = [tuple(row) for row in found[name]]
        for name in ("patch_size", "spacing_mm"):
            found[name] = tuple(found[name])
        found["classes"] = {int(label): name for label, name in found["classes"].items()}
        return ModelSpec(**found)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableFileError(
            "unreadable-model",
            f"is no model folder ({error})",
            f"Name {folder / 'model'}" if (folder / "model").exists() else "Name a run's `model`",
            path=path,
        ) from error


def load_model(
    folder: Path | str, *, device: str | torch.device = "cpu", folds: Sequence[int] | None = None
) -> Model:
    """The model in a folder, ready to predict; `folds` chooses some of its networks.

    Raises:
        UnreadableFileError: missing, damaged, changed since export, or of another format.
        ConfigError: a fold it does not have.
    """
    folder = Path(folder)
    spec = load_spec(folder)
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
    return Model(spec, [network.to(device).eval() for network in networks])


def _essence(spec: ModelSpec) -> dict[str, Any]:
    """What two networks must share to be averaged."""
    values = asdict(spec)
    for name in ("fingerprint", "about", "folds", "keep_largest", "overlap", "mirror_axes"):
        values.pop(name)
    essence: dict[str, Any] = json.loads(json.dumps(values))
    return essence


def _load_network(spec: ModelSpec, path: Path, expected: str) -> nn.Module:
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
