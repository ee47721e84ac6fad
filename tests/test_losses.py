from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from volumetric.losses import binary_focal_loss, classification_loss, focal_loss, weigh_classes

COUNTS = torch.tensor([6.0, 3.0, 1.0])


def _logits(n_cases: int = 10, *, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n_cases, 3, generator=torch.Generator().manual_seed(seed))


def _one_hot() -> torch.Tensor:
    return F.one_hot(torch.tensor([0] * 6 + [1] * 3 + [2]), 3).float()


def _mixed(n_cases: int = 10, *, seed: int = 1) -> torch.Tensor:
    return torch.rand(n_cases, 3, generator=torch.Generator().manual_seed(seed)).softmax(1)


@pytest.mark.parametrize("adjust", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_was_learned_before_is_learned_bit_for_bit(adjust: bool, smoothing: float) -> None:
    """The two losses as they stood in the training stage, before focal loss and weights."""
    logits, targets, drawn = _logits(), _mixed(), COUNTS / 10
    offset = drawn.log() * float(adjust)
    choices = {"label_smoothing": smoothing, "adjust_logits": adjust}
    expected = F.cross_entropy(logits + offset, targets, label_smoothing=smoothing)
    assert torch.equal(classification_loss(drawn, **choices)(logits, targets), expected)
    offset = drawn.logit() * float(adjust)
    soft = targets * (1 - smoothing) + smoothing / 2
    expected = F.binary_cross_entropy_with_logits(logits + offset, soft)
    loss = classification_loss(drawn, multi_label=True, **choices)
    assert torch.equal(loss(logits, targets), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_torchvisions(gamma: float) -> None:
    logits, targets = _logits(), _mixed().round()
    found = binary_focal_loss(logits, targets, gamma=gamma)
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(found, expected)
    # Its alpha weighs a yes by alpha, and a no by 1 - alpha.
    found = binary_focal_loss(logits, targets, gamma=gamma, weights=torch.full((3,), 3.0))
    expected = sigmoid_focal_loss(logits, targets, alpha=0.75, gamma=gamma, reduction="mean")
    torch.testing.assert_close(found / 4, expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("mixed", [False, True])
def test_focal_loss_is_monais(gamma: float, mixed: bool) -> None:
    from monai.losses import FocalLoss

    logits, targets = _logits(), _mixed() if mixed else _one_hot()
    theirs = FocalLoss(use_softmax=True, gamma=gamma, reduction="none")(logits, targets)
    torch.testing.assert_close(focal_loss(logits, targets, gamma=gamma), theirs.sum(1).mean())


def test_focal_loss_by_hand() -> None:
    """Of even answers a quarter is left by gamma 2, of three in four a sixteenth."""
    even, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    sure = torch.tensor([[3.0, 1.0]]).log()
    assert focal_loss(even, targets).item() == pytest.approx(0.25 * 0.693147, rel=1e-5)
    assert focal_loss(sure, targets).item() == pytest.approx(0.0625 * 0.287682, rel=1e-5)
    yes = torch.tensor([[3.0]]).log()
    assert binary_focal_loss(yes, torch.ones(1, 1)).item() == pytest.approx(0.0625 * 0.287682)
    assert binary_focal_loss(yes, torch.zeros(1, 1)).item() == pytest.approx(0.5625 * 1.386294)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_at_gamma_0_it_is_cross_entropy(smoothing: float) -> None:
    logits, targets = _logits(), _mixed()
    torch.testing.assert_close(
        focal_loss(logits, targets, gamma=0, label_smoothing=smoothing),
        F.cross_entropy(logits, targets, label_smoothing=smoothing),
    )
    torch.testing.assert_close(
        binary_focal_loss(logits, targets, gamma=0, label_smoothing=smoothing),
        F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / 2),
    )


@given(
    share=st.floats(0, 1),
    gamma=st.floats(0, 4),
    smoothing=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_a_mixture_costs_what_its_parts_do(
    share: float, gamma: float, smoothing: float, seed: int
) -> None:
    logits, weights = _logits(seed=seed), torch.tensor([0.5, 1.0, 4.0])
    one, other = _one_hot(), _one_hot().roll(1, 1)
    for loss in (focal_loss, binary_focal_loss):

        def cost(targets: torch.Tensor) -> torch.Tensor:
            return loss(  # noqa: B023 - called within the turn
                logits, targets, gamma=gamma, label_smoothing=smoothing, weights=weights
            )

        expected = share * cost(one) + (1 - share) * cost(other)
        torch.testing.assert_close(cost(share * one + (1 - share) * other), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_extreme_answers_have_finite_slopes(gamma: float, multi_label: bool) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    loss = classification_loss(COUNTS / 10, multi_label=multi_label, gamma=gamma)
    value = loss(logits, targets)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_weights_by_hand() -> None:
    drawn = COUNTS / 10
    torch.testing.assert_close(weigh_classes(drawn, power=0.0), torch.ones(3))
    full = weigh_classes(drawn, power=1.0)
    torch.testing.assert_close(full, torch.tensor([10 / 18, 10 / 9, 10 / 3]))
    half = weigh_classes(drawn, power=0.5)
    torch.testing.assert_close(half[2] / half[0], torch.tensor(6.0).sqrt())
    torch.testing.assert_close((half * drawn).sum(), torch.tensor(1.0))
    yes = weigh_classes(torch.tensor([0.5, 0.2, 0.9]), power=1.0, multi_label=True)
    torch.testing.assert_close(yes, torch.tensor([1.0, 4.0, 1 / 9]))


def test_weights_are_torchs_where_nothing_is_smoothed() -> None:
    logits, targets, drawn = _logits(), _one_hot(), COUNTS / 10
    found = classification_loss(drawn, class_weights=0.7)(logits, targets)
    weights = weigh_classes(drawn, power=0.7)
    torch.testing.assert_close(found, F.cross_entropy(logits, targets.argmax(1), weights))
    found = classification_loss(drawn, class_weights=0.7, multi_label=True)(logits, targets)
    weights = weigh_classes(drawn, power=0.7, multi_label=True)
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_full_weights_do_what_balanced_sampling_does(gamma: float) -> None:
    """Classes of 6, 3 and 1 cases: the loss is the mean of the classes' own, smoothed or not."""
    logits, targets = _logits(), _one_hot()
    choices = {"label_smoothing": 0.1, "gamma": gamma}
    found = classification_loss(COUNTS / 10, class_weights=1.0, **choices)(logits, targets)
    plain = classification_loss(COUNTS / 10, **choices)
    by_class = [plain(logits[targets[:, k] == 1], targets[targets[:, k] == 1]) for k in range(3)]
    torch.testing.assert_close(found, torch.stack(by_class).mean())


def test_a_class_no_case_has_does_not_take_over() -> None:
    """Smoothing asks for a little of it, which its large weight must not make much."""
    logits, targets = _logits(9), _one_hot()[:9]
    drawn = torch.tensor([6 / 9, 3 / 9, 0.0])
    for multi_label in (False, True):
        choices = {"label_smoothing": 0.1, "multi_label": multi_label}
        weighted = classification_loss(drawn, class_weights=1.0, **choices)(logits, targets)
        plain = classification_loss(drawn, **choices)(logits, targets)
        assert weighted < 2 * plain


@pytest.mark.parametrize("multi_label", [False, True])
def test_weights_leave_nothing_to_adjust(multi_label: bool) -> None:
    logits, targets, drawn = _logits(), _one_hot(), COUNTS / 10
    losses = [
        classification_loss(
            drawn, multi_label=multi_label, adjust_logits=adjust, class_weights=power
        )(logits, targets)
        for adjust in (False, True)
        for power in (0.0, 1.0)
    ]
    assert losses[1] == losses[3]
    assert losses[0] != losses[2]
