from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from volumetric.checkpoint import Row
from volumetric.learning import Lesson, Training, fit
from volumetric.models import plain_cnn3d, slice_network, small_cnn3d, video_network
from volumetric.models.backbones import BACKBONES
from volumetric.models.shift import Shifted
from volumetric.network_names import VideoNetwork
from volumetric.transfer import count_learning, group_parameters, hold_back, split_stages

SHAPE = (16, 64, 64)
SHELF: dict[str, Any] = {
    "small_cnn3d": lambda: small_cnn3d(3, 4),
    "plain_cnn3d": lambda: plain_cnn3d(3, 4, strides=[(2, 2, 2)] * 3),
    **{
        name: lambda name=name: video_network(name, n_classes=4, shape=SHAPE)
        for name in get_args(VideoNetwork)
    },
    **{
        f"{name}-{aggregate}": lambda name=name, aggregate=aggregate: slice_network(
            name,
            n_classes=4,
            aggregate=aggregate,
            shift=aggregate == "mean" and BACKBONES[name].branches is not None,
            members=2,
        )
        for name in BACKBONES
        for aggregate in ("mean", "attention", "mean_max", "conv3d")
    },
}
N_STAGES = {  # blocks, a stem, a head; and the last convolution of a MobileNet
    **{
        "small_cnn3d": 4 + 2,
        "plain_cnn3d": 3 + 1,
        "r3d_18": 8 + 2,
        "mvit_v2_s": 16 + 2,
        "swin3d_t": 2 + 2 + 6 + 2 + 5,
    },
    **{"resnet18-mean": 8 + 2, "resnet18-conv3d": 6 + 2, "mobilenet_v2-mean": 17 + 3},
}
QUICK = Training(
    epochs=5, steps_per_epoch=3, learning_rate=0.01, warmup_steps=2, compile=False, ema=0.0
)


def _on_paper(name: str) -> nn.Module:
    with torch.device("meta"):
        return SHELF[name]().eval()


@pytest.mark.parametrize("name", SHELF)
def test_stages_hold_every_parameter_once_and_run_in_their_order(name: str) -> None:
    # Where slices are shifted, which are an image's first has to be known, and not on paper alone.
    is_shifted = any(isinstance(module, Shifted) for module in _on_paper(name).modules())
    network = SHELF[name]().eval() if is_shifted else _on_paper(name)
    stages = split_stages(network)
    own = [parameter for _, parameters in stages for parameter in parameters]
    assert len(own) == len(set(own))
    assert set(own) == set(network.parameters())
    assert all(parameters for _, parameters in stages)
    stage_of = {one: number for number, (_, some) in enumerate(stages) for one in some}
    seen: list[int] = []

    def note(module: nn.Module, _: object) -> None:
        seen.extend(stage_of[one] for one in module.parameters(recurse=False))

    for module in network.modules():
        module.register_forward_pre_hook(note)
    with torch.inference_mode():
        network(torch.zeros(1, 3, *SHAPE, device=next(network.parameters()).device))
    assert list(dict.fromkeys(seen)) == list(range(len(stages)))


@pytest.mark.parametrize("name", SHELF)
def test_stages_are_blocks_under_a_head(name: str) -> None:
    stages = split_stages(_on_paper(name))
    assert stages[-1][0] in ("fc", "classifier", "head", "heads")
    least = 4 if name == "plain_cnn3d" else 6  # which has no weights to go on from
    assert len(stages) >= least  # or decay and gradual unfreezing would act on all at once
    if name in N_STAGES:
        assert len(stages) == N_STAGES[name]
    for _, parameters in stages:
        assert any(one.ndim > 1 for one in parameters)  # no norm is a stage


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "s3d"])
def test_the_head_is_what_weights_from_elsewhere_leave_new(name: str, tmp_path: Path) -> None:
    from torchvision.models import get_model

    state = get_model(name, num_classes=7).state_dict()
    noisy = {
        key: value + 0.1 if value.is_floating_point() else value for key, value in state.items()
    }
    torch.save(noisy, tmp_path / "weights.pt")
    networks = []
    for weights in ("none", tmp_path / "weights.pt"):
        torch.manual_seed(0)
        if name == "s3d":
            networks.append(video_network(name, n_classes=4, weights=weights))
        else:
            networks.append(slice_network(name, n_classes=4, weights=weights))
    fresh, filled = (split_stages(network) for network in networks)
    for (stage, before), (_, after) in zip(fresh, filled, strict=True):
        kept = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
        assert all(kept) if stage == fresh[-1][0] else not any(kept), stage


def test_stages_of_other_networks() -> None:
    """A leaf is all head; loose parameters enter with the first stage; shared ones count once."""
    assert [name for name, _ in split_stages(nn.Linear(2, 2))] == [""]
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2))
    network.register_parameter("token", nn.Parameter(torch.zeros(2)))
    network[2].weight = network[0].weight
    (first, one), (second, two), (head, three) = split_stages(network)
    assert (first, second, head) == ("0", "2", "3")
    assert one == [network.token, network[0].weight, network[0].bias]
    assert two == [network[2].bias]
    assert three == [network[3].weight, network[3].bias]


class _Toy(nn.Module):
    """Two stages with batch norms, and a head that has one too: logits (B, 2) of (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        self.upper = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.lower(x))
        return self.head(F.relu(self.upper(x)))


def _draw(
    rng: np.random.Generator, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    device = generator.device
    images = torch.randn(16, 4, generator=generator, device=device) + float(rng.normal())
    return images, (images[:, 0] > images[:, 1]).long()


def _fit(
    folder: Path,
    settings: Training = QUICK,
    *,
    stop_after: int | None = None,
    network: nn.Module | None = None,
    scores: list[float] | None = None,
) -> tuple[list[Row], list[dict[str, torch.Tensor]]]:
    """The rows, and what the network was before the first epoch and after each."""
    torch.manual_seed(0)
    network = _Toy() if network is None else network

    def state() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in network.state_dict().items()}

    states = [state()]

    def validate(_: nn.Module) -> float | None:
        states.append(state())
        return scores.pop(0) if scores else None

    lesson = Lesson(_draw, F.cross_entropy, validate)
    rows = []
    for row in fit(network, lesson, settings=settings, folder=folder, key="key"):
        rows.append(row)
        if stop_after is not None and len(rows) == stop_after:
            break
    return rows, states


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_rates_and_weight_decay_by_hand() -> None:
    network = _Toy()
    groups = group_parameters(network, layer_decay=0.5, weight_decay=0.1)
    lower, upper, head = network.lower, network.upper, network.head
    expected = [
        ([lower[0].weight], 0.25, 0.1),
        ([lower[0].bias, *lower[1].parameters()], 0.25, 0.0),
        ([upper[0].weight], 0.5, 0.1),
        ([upper[0].bias, *upper[1].parameters()], 0.5, 0.0),
        ([head[1].weight], 1.0, 0.1),
        ([*head[0].parameters(), head[1].bias], 1.0, 0.0),
    ]
    found = [(group["params"], group["scale"], group["weight_decay"]) for group in groups]
    assert found == expected
    (group,) = group_parameters(network, layer_decay=1.0, weight_decay=0.1)
    assert group["params"] == list(network.parameters())
    assert (group["scale"], group["weight_decay"]) == (1.0, 0.1)


def test_positions_and_tokens_do_not_decay() -> None:
    """As torchvision's own recipes for these transformers have it."""
    for name in ("mvit_v2_s", "swin3d_t"):
        network = _on_paper(name)
        names = {one: key for key, one in network.named_parameters()}
        groups = group_parameters(network, layer_decay=0.9, weight_decay=0.1)
        decaying = [group["params"] for group in groups if group["weight_decay"]]
        layers = (nn.Linear, nn.Conv3d)
        expected = {f"{key}.weight" for key, m in network.named_modules() if isinstance(m, layers)}
        assert {names[one] for params in decaying for one in params} == expected


def test_a_step_is_as_long_as_its_stage_allows(tmp_path: Path) -> None:
    once = replace(QUICK, epochs=1, steps_per_epoch=1, optimizer="sgd", weight_decay=0.0)
    steps = {}
    for decay in (1.0, 0.5):
        _, (before, after) = _fit(tmp_path / str(decay), replace(once, layer_decay=decay))
        steps[decay] = {name: after[name] - before[name] for name in before}
    for name, scale in (("lower.0.weight", 0.25), ("upper.0.weight", 0.5), ("head.1.weight", 1.0)):
        whole, short = steps[1.0][name], steps[0.5][name]
        assert whole.abs().max() > 1e-4
        torch.testing.assert_close(short, scale * whole, atol=1e-7, rtol=1e-3)


@given(n_stages=st.integers(0, 30), n=st.integers(1, 12))
def test_stages_join_evenly(n_stages: int, n: int) -> None:
    counts = [count_learning(e, n_stages=n_stages, unfreeze_epochs=n) for e in range(2 * n + 2)]
    assert counts[:n] == [0] * n
    assert counts[2 * n - 1 :] == [n_stages] * 3
    steps = np.diff(counts[n - 1 : 2 * n])
    assert steps.max() - steps.min() <= 1
    assert count_learning(0, n_stages=n_stages, unfreeze_epochs=0) == n_stages


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_stage_is_untouched_until_its_turn(tmp_path: Path, optimizer: str, ema: float) -> None:
    """Its weights and its statistics, bit for bit; in the average too."""
    settings = replace(QUICK, unfreeze_epochs=2, optimizer=optimizer, ema=ema)
    network = _Toy()
    _, states = _fit(tmp_path, settings, network=network)
    weights = {name for name, _ in network.named_parameters()}
    statistics = set(states[0]) - weights
    for epoch, stages in enumerate([["head"], ["head"], ["upper", "head"], [*"luh"], [*"luh"]]):
        moved = _moved(states[epoch], states[epoch + 1])
        learning = {name for name in states[0] if name.startswith(tuple(stages))}
        # Below the head, statistics are counted once all stages learn.
        counted = statistics if len(stages) == 3 else {n for n in statistics if "head" in n}
        assert moved == (learning & weights) | counted, epoch
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_nothing_but_the_head_is_computed_backwards(tmp_path: Path) -> None:
    network = _Toy().train()
    for spare in (True, False):
        network.zero_grad()
        held = hold_back(network, 0, unfreeze_epochs=1, norm="train", spare=spare)
        with held as waiting:
            network(torch.randn(8, 4)).sum().backward()
        below = [*network.lower.parameters(), *network.upper.parameters()]
        assert waiting == below
        assert all((parameter.grad is None) == spare for parameter in below)
        assert all(parameter.grad is not None for parameter in network.head.parameters())


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_resumed_equals_unbroken(tmp_path: Path, stop_after: int) -> None:
    settings = replace(QUICK, unfreeze_epochs=2, layer_decay=0.7, ema=0.9, norm="eval")
    whole, expected = _fit(tmp_path / "whole", settings)
    _fit(tmp_path / "broken", settings, stop_after=stop_after)
    resumed, states = _fit(tmp_path / "broken", settings)
    assert [row.train_loss for row in resumed] == [row.train_loss for row in whole]
    assert len(states) == 1 + len(whole) - stop_after
    assert not _moved(states[-1], expected[-1])


def test_statistics_stay_while_scales_learn(tmp_path: Path) -> None:
    _, states = _fit(tmp_path, replace(QUICK, norm="eval"))
    moved = _moved(states[0], states[-1])
    below = {name for name in states[0] if not name.startswith("head")}
    assert moved & below == {name for name in below if "running" not in name and "num" not in name}
    assert "lower.1.weight" in moved
    assert "head.0.running_mean" in moved  # new, it has counted nothing yet
    _, states = _fit(tmp_path / "train", QUICK)
    assert "lower.1.running_mean" in _moved(states[0], states[-1])


def test_patience_begins_when_all_stages_learn(tmp_path: Path) -> None:
    """The heads' best epoch would have stopped it at the third."""
    settings = replace(QUICK, epochs=8, unfreeze_epochs=2, patience=2)
    rows, _ = _fit(tmp_path, settings, scores=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert len(rows) == 3 + 1 + 2


def test_what_the_caller_froze_stays_frozen(tmp_path: Path) -> None:
    network = _Toy()
    network.lower[0].weight.requires_grad_(False)
    settings = replace(QUICK, unfreeze_epochs=1, layer_decay=0.5)
    _, states = _fit(tmp_path, settings, network=network)
    moved = _moved(states[0], states[-1])
    assert "lower.0.weight" not in moved
    assert {"lower.0.bias", "upper.0.weight"} <= moved
    assert not network.lower[0].weight.requires_grad


def _deep() -> nn.Module:
    """Nine stages with batch norms, and a head: logits (B, 2) of (B, 4)."""
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(9)]
    return nn.Sequential(OrderedDict(trunk=nn.Sequential(*blocks), head=nn.Linear(4, 2)))


@pytest.mark.parametrize("spare", [False, True])
def test_a_compiled_network_is_compiled_twice(spare: bool) -> None:
    """Once for stages that wait and once for none; sparing their gradients, for each that joins."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    network = _deep()
    compiled = torch.compile(network, dynamic=False, backend="eager")
    for epoch in range(8):
        compiled.train()
        with hold_back(network, epoch, unfreeze_epochs=3, norm="train", spare=spare):
            compiled(torch.randn(8, 4)).sum().backward()
    n_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert n_graphs == (4 if spare else 2)


@pytest.mark.gpu
def test_a_gpu_unfreezes_a_compiled_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = _deep().cuda()
    settings = replace(
        QUICK, epochs=20, unfreeze_epochs=9, layer_decay=0.8, compile=True, precision="bf16-mixed"
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    rows, states = _fit(tmp_path, settings, network=network)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    for epoch in range(9):
        assert _moved(states[epoch], states[epoch + 1]) == {"head.weight", "head.bias"}
    for joined in range(9):
        moved = _moved(states[9 + joined], states[10 + joined])
        waiting = tuple(f"trunk.{block}." for block in range(8 - joined))
        assert not [name for name in moved if name.startswith(waiting)]
        assert f"trunk.{8 - joined}.0.weight" in moved
    assert rows[-1].train_loss < rows[0].train_loss
