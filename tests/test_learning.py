from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from volumetric.checkpoint import Row
from volumetric.errors import TrainingError
from volumetric.learning import Lesson, Training, fit
from volumetric.losses import deep_supervision
from volumetric.models import UNet

QUICK = Training(epochs=4, steps_per_epoch=5, learning_rate=0.01, warmup_steps=3, compile=False)


def _network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return UNet(1, 2, features=[4, 8], strides=[(1, 1, 1), (2, 2, 2)], kernels=[(3, 3, 3)] * 2)


def _draw(
    rng: np.random.Generator, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(2, 1, 8, 8, 8, generator=generator) + float(rng.normal())
    return images, (images[:, 0] > 0.5).to(torch.uint8)


def _fit(
    folder: Path,
    settings: Training = QUICK,
    *,
    stop_after: int | None = None,
    validate: Callable[[nn.Module], float | None] = lambda _: None,
    key: str = "key",
) -> tuple[list[Row], nn.Module]:
    network = _network()
    rows = []
    lesson = Lesson(_draw, deep_supervision, validate)
    for row in fit(network, lesson, settings=settings, folder=folder, key=key):
        rows.append(row)
        if stop_after is not None and len(rows) == stop_after:
            break
    return rows, network


def test_it_learns_and_writes_its_history(tmp_path: Path) -> None:
    rows, _ = _fit(tmp_path, replace(QUICK, epochs=8))
    assert rows[-1].train_loss < rows[0].train_loss - 0.2
    with (tmp_path / "history.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in written] == list(range(8))
    assert float(written[-1]["train_loss"]) == rows[-1].train_loss
    assert written[-1]["val_score"] == ""
    assert [row.step for row in rows] == [5 * (k + 1) for k in range(8)]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resumed_equals_unbroken(tmp_path: Path, optimizer: str) -> None:
    settings = replace(QUICK, optimizer=optimizer)
    whole, network = _fit(tmp_path / "whole", settings)
    _fit(tmp_path / "broken", settings, stop_after=2)
    resumed, again = _fit(tmp_path / "broken", settings)
    assert len(resumed) == 4
    assert [row.train_loss for row in resumed] == [row.train_loss for row in whole]
    for ours, theirs in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_another_key_starts_anew(tmp_path: Path) -> None:
    first, _ = _fit(tmp_path, key="a")
    same, _ = _fit(tmp_path, key="a")
    other, _ = _fit(tmp_path, replace(QUICK, seed=1), key="b")
    assert same == first
    assert other[0].train_loss != first[0].train_loss


def test_the_average_is_validated_and_kept(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def validate(network: nn.Module) -> float:
        assert not network.training
        seen.append(next(network.parameters()).detach().clone())
        return 0.5

    rows, network = _fit(tmp_path, replace(QUICK, ema=0.9), validate=validate)
    assert [row.val_score for row in rows] == [0.5] * 4
    assert torch.equal(seen[-1], next(network.parameters()))
    # The first epoch's average trails the weights it averages.
    plain, raw = _fit(tmp_path / "raw", replace(QUICK, ema=0.0))
    assert [row.train_loss for row in plain] == [row.train_loss for row in rows]
    assert not torch.equal(next(raw.parameters()), next(network.parameters()))


def test_the_rate_rises_and_falls_to_zero(tmp_path: Path) -> None:
    rows, _ = _fit(tmp_path, replace(QUICK, epochs=10, decay="poly"))
    rates = [row.learning_rate for row in rows]
    assert rates[0] <= 0.01
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_patience_stops_early(tmp_path: Path) -> None:
    scores = iter([0.5, 0.6, 0.55, 0.58, 0.57, 0.9])
    rows, _ = _fit(tmp_path, replace(QUICK, epochs=6, patience=2), validate=lambda _: next(scores))
    assert [row.val_score for row in rows] == [0.5, 0.6, 0.55, 0.58]


def test_a_budget_in_minutes_ends_the_schedule(tmp_path: Path) -> None:
    rows, _ = _fit(tmp_path, replace(QUICK, epochs=100_000, minutes=0.02))
    assert 0 < len(rows) < 100_000
    assert rows[-1].learning_rate == pytest.approx(0, abs=1e-6)


def test_divergence_is_named(tmp_path: Path) -> None:
    def draw(rng: np.random.Generator, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        images, masks = _draw(rng, generator)
        return images * float("nan"), masks

    with pytest.raises(TrainingError, match=r"train\.learning_rate"):
        list(
            fit(
                _network(),
                Lesson(draw, deep_supervision, lambda _: None),
                settings=QUICK,
                folder=tmp_path,
                key="",
            )
        )


@pytest.mark.gpu
def test_a_gpu_trains_in_bfloat16(tmp_path: Path) -> None:
    def draw(rng: np.random.Generator, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        images = torch.randn(2, 1, 16, 16, 16, generator=generator, device="cuda")
        return images, (images[:, 0] > 0.5).to(torch.uint8)

    settings = replace(QUICK, epochs=10, precision="bf16-mixed", compile=True)
    rows = list(
        fit(
            _network().cuda(),
            Lesson(draw, deep_supervision, lambda _: None),
            settings=settings,
            folder=tmp_path,
            key="",
        )
    )
    assert rows[-1].train_loss < rows[0].train_loss
