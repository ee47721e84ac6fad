"""What a frozen trunk sees in prepared clips: computed once, kept as float16, drawn as batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from volumetric.clip_augment import crop_clips
from volumetric.clip_dataset import choose_part
from volumetric.errors import OutputError, UnreadableFileError
from volumetric.inference.clips import choose_views, frame_boxes, present
from volumetric.models.heads import SliceHead
from volumetric.models.slices import SliceNetwork
from volumetric.spec import ClassifierSpec

_NAME = "features"


@dataclass(frozen=True)
class FeatureSource:
    """What a trunk saw in one clip: in memory if it fits, else on disk.

    Attributes:
        path: its file.
        target: 1 for each class it has, else 0: float32 (n_classes,).
        held: float16 (n_variants, F, D, h, w), or None to read it each time.
    """

    path: Path
    target: torch.Tensor
    held: torch.Tensor | None = None

    def read(self) -> torch.Tensor:
        """All variants, float16 (n_variants, F, D, h, w): the clip, then its mirror image."""
        return _read(self.path) if self.held is None else self.held


@torch.inference_mode()
def see_clip(
    network: SliceNetwork, clip: torch.Tensor, *, spec: ClassifierSpec, mirror: bool
) -> torch.Tensor:
    """What `network.look` finds in a prepared clip, as prediction shows it with one view and crop.

    float16 (n_variants, F, D, h, w) on the CPU of a clip uint8 (3, T, H, W); the second variant,
    with `mirror`, is of the clip with left and right exchanged.
    """
    device = next(network.parameters()).device
    frames = choose_views(clip.shape[1], spec=spec, views=1)[0]
    boxes = torch.tensor(frame_boxes(*clip.shape[2:], spec=spec, crops=1), device=device)
    chosen = clip[None, :, torch.from_numpy(frames)].to(device)
    variants = []
    for flipped in (False, True) if mirror else (False,):
        flip = torch.tensor([flipped], device=device)
        shown = present(crop_clips(chosen, boxes, size=(spec.size, spec.size), flip=flip), spec)
        variants.append(network.look(shown)[0])
    return torch.stack(variants).to("cpu", torch.float16)


def write_features(path: Path, features: torch.Tensor, *, key: str) -> None:
    """Write what was seen in one clip, whole or not at all.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({_NAME: features.contiguous()}, partial, {"key": key})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            "unwritable", f"cannot be written ({error})", "Check folder and free space", path=path
        ) from error


def standing_key(path: Path) -> str | None:
    """What `write_features` was given; None where there is no such file, or a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            key: str | None = (file.metadata() or {}).get("key")
            return key if _NAME in file.keys() else None  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError):
        return None


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
    """Mean and standard deviation (F,) of each feature over all clips, frames and places.

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
    p_flip: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, F, D, h, w) float32, and targets (B, n_classes) float32, drawn by chance.

    Each is its clip's mirror image as often as `p_flip`, three quarters of its time at least,
    spread evenly, and maps are moved by one place at most: the border is repeated.
    """
    drawn, targets = [], []
    for number in rng.choice(len(sources), batch_size, p=chances):
        variants = sources[int(number)].read()
        flipped = len(variants) > 1 and rng.random() < p_flip
        depth, *grid = variants.shape[2:]
        frames, *places = (
            torch.from_numpy(index)
            for index in (choose_part(depth, rng, length=depth), *(_move(n, rng) for n in grid))
        )
        x = variants[int(flipped)]
        drawn.append(x[:, frames[:, None, None], places[0][:, None], places[1]])
        targets.append(sources[int(number)].target)
    return torch.stack(drawn).to(torch.float32), torch.stack(targets)


@torch.inference_mode()
def answer_features(head: SliceHead, source: FeatureSource) -> torch.Tensor:
    """Logits (n_classes,) of the clip as it is."""
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
