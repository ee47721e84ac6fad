from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetric.losses import deep_supervision, dice_and_cross_entropy
from volumetric.models import UNet

FLAT = {
    "features": [4, 8, 8, 8],
    "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)],
    "kernels": [(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
}


@pytest.mark.parametrize("residual", [False, True])
def test_shapes_in_training_and_evaluation(residual: bool) -> None:
    network = UNet(2, 3, **FLAT, residual=residual)
    images = torch.randn(2, 2, 4, 8, 16)
    outputs = network.train()(images)
    assert [tuple(o.shape) for o in outputs] == [(2, 3, 4, 8, 16), (2, 3, 4, 4, 8)]
    assert network.eval()(images).shape == (2, 3, 4, 8, 16)


@pytest.mark.parametrize("residual", [False, True])
def test_overfits_two_cases(residual: bool) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 8, 8, 8)
    labels = (images[:, 0] > 0.5).long() + (images[:, 0] > 1.2).long()
    network = UNet(1, 3, **FLAT, residual=residual)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-2)
    for _ in range(60):
        loss = deep_supervision(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = network.eval()(images).argmax(1)
    assert (found == labels).float().mean() > 0.97


def test_parameter_count_by_hand() -> None:
    """Convolutions without bias, instance norms with two values a channel, heads with bias."""
    network = UNet(1, 2, features=[4, 8], strides=[(1, 1, 1), (2, 2, 2)], kernels=[(3, 3, 3)] * 2)
    encoder = 27 * (1 * 4 + 4 * 4) + 2 * 8 + 27 * (4 * 8 + 8 * 8) + 2 * 16
    decoder = 8 * 8 * 4 + 4 + 27 * (8 * 4 + 4 * 4) + 2 * 8
    head = 4 * 2 + 2
    assert sum(p.numel() for p in network.parameters()) == encoder + decoder + head


@pytest.mark.parametrize("n_stages", [2, 3, 4])
def test_every_parameter_learns(n_stages: int) -> None:
    network = UNet(1, 2, **{name: values[:n_stages] for name, values in FLAT.items()})
    loss = deep_supervision(network(torch.randn(1, 1, 8, 8, 8)), torch.ones(1, 8, 8, 8))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_refuses_stages_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="stages differ"):
        UNet(1, 2, features=[4, 8, 8], strides=[(1, 1, 1)] * 2, kernels=[(3, 3, 3)] * 3)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_loss_agrees_with_monai(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.losses import DiceCELoss
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5, 6), generator=generator)
    oracle = DiceCELoss(
        to_onehot_y=True,
        softmax=True,
        include_background=False,
        batch=True,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    expected = oracle(logits, labels[:, None]) - 1  # MONAI adds 1 - Dice, we subtract Dice
    assert dice_and_cross_entropy(logits, labels).item() == pytest.approx(expected.item(), abs=1e-5)


def test_deep_supervision_weights_sum_to_one() -> None:
    logits = torch.randn(1, 3, 4, 4, 4)
    labels = torch.randint(0, 3, (1, 4, 4, 4))
    same = deep_supervision([logits, logits, logits], labels)
    assert same.item() == pytest.approx(dice_and_cross_entropy(logits, labels).item(), abs=1e-5)


def test_a_perfect_prediction_loses_nothing() -> None:
    labels = torch.randint(0, 3, (2, 4, 4, 4))
    logits = 50.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    assert dice_and_cross_entropy(logits, labels).item() == pytest.approx(-1, abs=1e-4)
    assert np.isfinite(dice_and_cross_entropy(logits, torch.zeros_like(labels)).item())
