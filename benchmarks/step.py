"""One training step on this CPU: eager against compiled, plain against channels-last memory.

    .venv/bin/python benchmarks/step.py

The network and the batch are those of hippocampus_cpu. The variants take turns, so that a drift
of the machine hits all; printed are medians and their ratio to eager, plain.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from volumetric.losses import deep_supervision
from volumetric.models import UNet

SHAPE = (40, 56, 40)
STEPS = 15


def main() -> None:
    """Print a row a variant."""
    variants = {
        f"{'compiled' if compiled else 'eager'}, {'channels-last' if last else 'plain'}": step(
            compiled=compiled, last=last
        )
        for compiled in (False, True)
        for last in (False, True)
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(STEPS + 3):
        for name, do in variants.items():
            started = time.perf_counter()
            do()
            if number >= 3:  # the first compile, or fill caches
                seconds[name].append(time.perf_counter() - started)
    first = statistics.median(seconds["eager, plain"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:<26}{median:.3f} s a step, {first / median:.2f} times eager, plain")


def step(*, compiled: bool, last: bool) -> Callable[[], None]:
    """A function that takes one step."""
    torch.manual_seed(0)
    network = UNet(
        1,
        3,
        features=[16, 32, 64, 128],
        strides=[(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)],
        kernels=[(3, 3, 3)] * 4,
    )
    images = torch.randn(2, 1, *SHAPE)
    labels = torch.randint(0, 3, (2, *SHAPE))
    if last:
        network = network.to(memory_format=torch.channels_last_3d)
        images = images.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters())
    run = torch.compile(network, dynamic=False) if compiled else network

    def do() -> None:
        loss = deep_supervision(run(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return do


if __name__ == "__main__":
    main()
