"""Weights learnt elsewhere: put whole into a network's trunk, or refused by name."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from volumetric.errors import ConfigError, DownloadError, UnreadableFileError, UnsupportedError
from volumetric.network_names import NamedWeights

Weights = NamedWeights | Path
State = Mapping[str, torch.Tensor]

_HEADS = ("classifier", "fc", "fc8", "head", "heads", "class_layers", "last_linear")
_FOREIGN_HEAD = "conv_seg."  # with which MedicalNet segments
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
_PREFIXES = {"imagenet": "IMAGENET1K", "kinetics": "KINETICS400"}


def load_backbone(
    module: nn.Module, weights: Weights, *, name: str, dropped: tuple[str, ...] = ()
) -> bool:
    """Whether the head's weights came too, once the trunk's lie in `module`, which is changed.

    The trunk is everything but the last child, if that is called as heads are in torchvision and
    MONAI: classifier, fc, head and so on. Each of its tensors must be there in its shape, and
    nothing else may be. The head is taken where its shapes agree, and may be absent. DenseNet's
    layers may have the names of before 2018, as in torchvision's own file. Load before the first
    layer is adapted to other channels.

    A file may hold the tensors under "state_dict", beside an optimizer and the like, and with
    "module." before every name: so MedicalNet's do, and checkpoints of training on several GPUs.

    Args:
        module: a network built under torchvision's own names.
        weights: "none" leaves the module as it was initialised; "imagenet" and "kinetics" are
            torchvision's own, from its cache or fetched, held against their hash; a path is a
            file of tensors, .safetensors or torch's own.
        name: torchvision's name of the network, to find its weights by and to name in errors.
        dropped: how names of a file's tensors may begin that are left out, where the module
            has lost its head; all of what it has is then trunk.

    Raises:
        ConfigError: there are no such weights of this network.
        DownloadError: the weights are not in the cache and cannot be fetched.
        UnreadableFileError: the file is missing, broken, holds other things than tensors or
            values that are not finite.
        UnsupportedError: the tensors are of another network; the keys are named.
    """
    if weights == "none":
        return False
    path = weights if isinstance(weights, Path) else _cached(_url(name, weights))
    read = _read_state(path).items()
    state = {_present_name(key): value for key, value in read if not key.startswith(dropped)}
    own = module.state_dict()
    head = None if dropped else _head_prefix(module)
    trunk = {key for key in own if not (head and key.startswith(head))}
    heads = (head or _FOREIGN_HEAD, _FOREIGN_HEAD)
    given = {key for key in state if not key.startswith(heads)}
    _check_trunk(own, state, trunk=trunk, given=given, where=(name, path))
    fits = {
        key for key in own.keys() - trunk if key in state and state[key].shape == own[key].shape
    }
    with_head = bool(fits) and fits == own.keys() - trunk
    chosen = given | fits if with_head else given
    # Of these alone: others may be expanded from a few bytes to any size.
    broken = sorted(key for key in chosen if not torch.isfinite(state[key]).all())
    if broken:
        raise _unreadable(path, f"holds values that are not finite: {_some(broken)}")
    module.load_state_dict({key: state[key] for key in chosen}, strict=False)
    return with_head


def adapt_first_layer(module: nn.Module, n_channels: int) -> None:
    """Let the module's first convolution, which takes one or three channels, take `n_channels`.

    One channel gets the sum of the three kernels: a grey image answers as its RGB copy did. Other
    numbers repeat the kernels in turn, times their number/n_channels, which keeps the size of the
    answer: copies of a grey image in all channels answer as it did in one.

    Raises:
        ConfigError: fewer than one channel, or no convolution of one or three comes first.
    """
    convolutions = (m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    first = next(convolutions, None)
    if n_channels < 1 or first is None or first.in_channels not in (1, 3):
        raise ConfigError(
            "bad-channels",
            f"a first layer of {n_channels} channels cannot be made of {first}",
            "Give at least one channel, and a network of grey or RGB images",
        )
    learnt = first.in_channels
    if n_channels == learnt:
        return
    kernels = first.weight.detach()
    if n_channels == 1:
        kernels = kernels.sum(1, keepdim=True)
    else:
        kernels = kernels[:, torch.arange(n_channels) % learnt] * (learnt / n_channels)
    # Changed in place, since a convolution's other settings have a dozen names.
    first.in_channels = n_channels
    first.weight = nn.Parameter(kernels.clone())


def _head_prefix(module: nn.Module) -> str | None:
    names = [name for name, _ in module.named_children()]
    return f"{names[-1]}." if names and names[-1] in _HEADS else None


def _check_trunk(
    own: State, state: State, *, trunk: set[str], given: set[str], where: tuple[str, Path]
) -> None:
    name, path = where
    # Counters of batch norm are absent from files older than PyTorch 0.4.1, and change nothing.
    missing = {key for key in trunk - given if not key.endswith("num_batches_tracked")}
    faults = {
        "missing": sorted(missing),
        "unknown": sorted(given - trunk),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in sorted(trunk & given)
            if state[key].shape != own[key].shape
        ],
    }
    found = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in faults.items() if keys)
    if found:
        raise UnsupportedError(
            "weights-mismatch",
            f"these are not the weights of {name}: {found}",
            f"Give a file of {name}, with its own names",
            path=path,
        )


def _present_name(key: str) -> str:
    """The name that a tensor of DenseNet has today: denselayer1.norm1 was once norm.1."""
    return _OLD_DENSENET.sub(r"\1\2", key)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (", …" if len(keys) > 4 else "")


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is odd but readable is checked below
                state = torch.load(path, map_location="cpu", weights_only=True)
            state = _unwrap(state)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes torch's reader raise whatever it meets
        raise _unreadable(path, f"cannot be read as weights ({_first_line(error)})") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise _unreadable(path, "holds other things than named tensors")
    odd = [key for key, value in state.items() if not _is_plain(value)]
    if odd:
        raise _unreadable(path, f"holds tensors that are not plain numbers: {_some(odd)}")
    return dict(state)


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.is_cpu and not tensor.is_quantized


def _unwrap(loaded: Any) -> Any:
    """The state dict of a checkpoint, under its module's own names."""
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict):
        return state
    if all(isinstance(key, str) and key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unreadable(path: Path, reason: str) -> UnreadableFileError:
    return UnreadableFileError(
        "unreadable-weights",
        reason,
        "Give a state dict saved as .safetensors, or by torch.save(module.state_dict(), …)",
        path=path,
    )


def _url(name: str, weights: str) -> str:
    """Where torchvision keeps these weights: its default where several are of the kind."""
    from torchvision.models import get_model_weights

    try:
        kinds = get_model_weights(name)
        prefix = _PREFIXES[weights]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "unknown-weights",
            f"torchvision has no weights {weights!r} of a network {name!r}",
            f"Use none, {', '.join(_PREFIXES)} or a file",
        ) from error
    chosen = [kinds.DEFAULT, *reversed(list(kinds))]
    for kind in chosen:
        if kind.name.startswith(prefix):
            return str(kind.url)
    raise ConfigError(
        "unknown-weights",
        f"torchvision has no weights {weights!r} of {name}",
        f"It has {', '.join(kind.name for kind in kinds)}: use none, another kind or a file",
    )


def _cached(url: str) -> Path:
    """The file of a URL in torch's cache, fetched where it is absent, proven by its hash."""
    file_name = Path(urlparse(url).path).name
    expected = Path(file_name).stem.rsplit("-", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), expected, progress=False)
        except (OSError, RuntimeError) as error:
            raise DownloadError(
                "weights-not-fetched",
                f"the weights are not there and cannot be fetched ({error})",
                f"Put {file_name} there from a machine that is online, or use none or a file",
                path=path,
            ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise DownloadError(
            "wrong-hash",
            f"the file's SHA-256 begins {found[:8]}, not {expected}",
            "Remove it, so that it is fetched again",
            path=path,
        )
    return path
