"""Prepared clips and scans with the classes they have, held in memory where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from volumetric.io.prepared import Prepared


@dataclass(frozen=True)
class LabelledCase:
    """One prepared case: in memory if it fits, else on disk.

    Attributes:
        prepared: the case on disk.
        target: 1 for each class it has, else 0: float32 (n_classes,).
        image: (C, D, H, W), uint8 of a clip, float16 of a scan; or None to read it each time.
    """

    prepared: Prepared
    target: torch.Tensor
    image: torch.Tensor | None = None

    def read(self) -> torch.Tensor:
        """All of the image (C, D, H, W)."""
        return self.prepared.read_image() if self.image is None else self.image


def open_labelled(
    cases: Sequence[Prepared], targets: Sequence[torch.Tensor], *, budget_bytes: int
) -> list[LabelledCase]:
    """Cases to draw from: all held in memory if their files stay within the budget."""
    held = sum(case.path.stat().st_size for case in cases) <= budget_bytes
    return [
        LabelledCase(case, target, case.read_image() if held else None)
        for case, target in zip(cases, targets, strict=True)
    ]


def draw_chances(targets: torch.Tensor, *, balance: float) -> NDArray[np.float64]:
    """How likely each case is drawn, summing to 1: (n_cases,).

    A case's chance falls with the size of its rarest class, to the power of `balance`: at 0 all
    cases are as likely, at 1 all classes (where a case has one).
    """
    sizes = targets.sum(0).clamp_min(1).numpy().astype(np.float64)
    own = np.where(targets.numpy() > 0, sizes, np.inf).min(1)
    # A case without any class counts as one of the class of such cases.
    own = np.where(np.isinf(own), max(1, int(np.isinf(own).sum())), own)
    chances = own**-balance
    return np.asarray(chances / chances.sum())


def draw_whole(
    cases: Sequence[LabelledCase],
    rng: np.random.Generator,
    *,
    batch_size: int,
    chances: NDArray[np.float64],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, C, D, H, W) float32 and targets (B, n_classes), drawn by their chances.

    All images are of one size, as prepared scans are.
    """
    drawn = [cases[int(number)] for number in rng.choice(len(cases), batch_size, p=chances)]
    images = torch.stack([case.read() for case in drawn]).to(torch.float32)
    return images, torch.stack([case.target for case in drawn])
