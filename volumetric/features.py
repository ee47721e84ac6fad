"""What a frozen trunk sees in prepared cases: computed once, kept as float16, drawn as batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from volumetric.clip_dataset import choose_part
from volumetric.errors import UnreadableFileError
from volumetric.inference.clips import mirrored
from volumetric.io.tensors import read_about, write_tensors
from volumetric.models.heads import SliceHead
from volumetric.models.slices import SliceNetwork

_NAME = "features"


@dataclass(frozen=True)
class FeatureSource:
    """What a trunk saw in one case: in memory if it fits, else on disk.

    Attributes:
        path: its file.
        target: 1 for each class it has, else 0: float32 (n_classes,).
        held: float16 (n_variants, F, D, h, w), or None to read it each time.
    """

    path: Path
    target: torch.Tensor
    held: torch.Tensor | None = None

    def read(self) -> torch.Tensor:
        """All variants, float16 (n_variants, F, D, h, w): the case, then its mirror images."""
        return _read(self.path) if self.held is None else self.held


@torch.inference_mode()
def see_images(
    network: SliceNetwork, shown: torch.Tensor, *, mirror_axes: Sequence[int]
) -> torch.Tensor:
    """What `network.look` finds in one image (1, C, D, H, W) as the network is shown it.

    float16 (n_variants, F, D, h, w) on the CPU: the image, then its mirror images along every set
    of the axes (0 D, 1 H, 2 W), in the order of `mirrored`.
    """
    device = next(network.parameters()).device
    variants = [
        network.look(shown.to(device).flip([2 + axis for axis in axes]))[0]
        for axes in mirrored(mirror_axes)
    ]
    return torch.stack(variants).to("cpu", torch.float16)


def write_features(path: Path, features: torch.Tensor, *, key: str) -> None:
    """Write what was seen in one case, whole or not at all.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    write_tensors(path, {_NAME: features}, about={"key": key})


def standing_key(path: Path) -> str | None:
    """What `write_features` was given; None where there is no such file, or a damaged one."""
    return read_about(path).get("key")


def open_features(
    paths: Sequence[Path], targets: Sequence[torch.Tensor], *, budget_bytes: int
) -> list[FeatureSource]:
    """Sources for `draw_features`: all held in memory if their files stay within the budget."""
    held = sum(path.stat().st_size for path in paths) <= budget_bytes
    return [
        FeatureSource(path, target, _read(path) if held else None)
        for path, target in zip(paths, targets, strict=True)
    ]


def measure_spread(sources: Sequence[FeatureSource]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (F,) of each feature over all cases, slices and places.

    A feature that never changes has the deviation 1, which leaves it at 0.
    """
    total = square = torch.zeros((), dtype=torch.float64)
    n = 0
    for source in sources:
        x = source.read().to(torch.float64)
        total = total + x.sum((0, 2, 3, 4))
        square = square + x.square().sum((0, 2, 3, 4))
        n += x.numel() // x.shape[1]
    mean = total / n
    spread = (square / n - mean.square()).clamp_min(0).sqrt()
    spread = torch.where(spread > 1e-4, spread, torch.ones_like(spread))
    return mean.to(torch.float32), spread.to(torch.float32)


def draw_features(
    sources: Sequence[FeatureSource],
    rng: np.random.Generator,
    *,
    batch_size: int,
    chances: NDArray[np.float64],
    mirror: Mapping[int, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, F, D, h, w) float32, and targets (B, n_classes) float32, drawn by chance.

    Each is mirrored along each axis as often as `mirror` says, whose axes are those it was seen
    with; three quarters of its slices at least, spread evenly; and maps are moved by one place at
    most: the border is repeated.
    """
    variants_of = mirrored(tuple(mirror))
    drawn, targets = [], []
    for number in rng.choice(len(sources), batch_size, p=chances):
        variants = sources[int(number)].read()
        turned = tuple(axis for axis, chance in mirror.items() if rng.random() < chance)
        depth, *grid = variants.shape[2:]
        frames, *places = (
            torch.from_numpy(index)
            for index in (choose_part(depth, rng, length=depth), *(_move(n, rng) for n in grid))
        )
        x = variants[variants_of.index(turned)]
        drawn.append(x[:, frames[:, None, None], places[0][:, None], places[1]])
        targets.append(sources[int(number)].target)
    return torch.stack(drawn).to(torch.float32), torch.stack(targets)


@torch.inference_mode()
def answer_features(head: SliceHead, source: FeatureSource) -> torch.Tensor:
    """Logits (n_classes,) of the case as it is."""
    device = next(head.parameters()).device
    logits: torch.Tensor = head(source.read()[:1].to(device, torch.float32))[0]
    return logits


def _move(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    moved: NDArray[np.int64] = np.clip(np.arange(n) + rng.integers(-1, 2), 0, n - 1)
    return moved


def _read(path: Path) -> torch.Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            features: torch.Tensor = file.get_tensor(_NAME)
            return features
    except (OSError, SafetensorError) as error:
        raise UnreadableFileError(
            "unreadable-features",
            f"cannot be read ({error})",
            "Remove it, and run `volumetric train` again",
            path=path,
        ) from error
