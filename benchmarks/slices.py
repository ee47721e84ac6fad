"""A 2D ResNet-18 over the slices of a volume: volumetric, a plain loop, MONAI's MILModel.

    .venv/bin/python benchmarks/slices.py                       256 slices of 224x224, 1 channel
    .venv/bin/python benchmarks/slices.py --slices 6 --rounds 1     whether it works

Each takes its turn in a process of its own, so that a drift of the machine hits all and peak
memory can be compared. All run the same trunk, in evaluation, on the same volume, and have a head
with attention: a loop is what one would write oneself, a slice at a time; MILModel is MONAI's
network for a bag of 2D images, here given a trunk for one channel rather than three copies of
it. The loop must give volumetric's answer.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

WAYS = ("volumetric", "loop", "MONAI")
Answer = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels along both sides")
    parser.add_argument("--chunk", type=int, default=32, help="slices at a time, volumetric")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help="take one turn, and print it as JSON")
    chosen = parser.parse_args()
    if chosen.way is None:
        compare(chosen)
    else:
        print(json.dumps(take_turn(chosen)))


def compare(chosen: argparse.Namespace) -> None:
    """Print slices a second and memory of each way, then ratios with the range over rounds."""
    turns: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(chosen.rounds):
        # Whoever comes first in a round comes last in the next.
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            turns[way].append(run_turn(way, chosen))
    for ours, theirs in zip(turns["volumetric"], turns["loop"], strict=True):
        if abs(ours["answer"] - theirs["answer"]) > 1e-3:
            raise SystemExit(f"the loop answers {theirs['answer']}, volumetric {ours['answer']}")
    print(
        f"{chosen.slices} slices of {chosen.size}x{chosen.size}, {torch.get_num_threads()} threads"
    )
    for way, rounds in turns.items():
        seconds = statistics.median(turn["seconds"] for turn in rounds)
        added = statistics.median(turn["added_mb"] for turn in rounds)
        peak = statistics.median(turn["peak_mb"] for turn in rounds)
        print(
            f"{way:<12}{chosen.slices / seconds:8.1f} slices/s, peak {peak:.0f} MB, "
            f"{added:.0f} MB above the network and the volume"
        )
    for way in WAYS[1:]:
        for what in ("seconds", "peak_mb"):
            report(way, what, turns)


def report(way: str, what: str, turns: dict[str, list[dict[str, float]]]) -> None:
    ratios = sorted(
        theirs[what] / ours[what]
        for theirs, ours in zip(turns[way], turns["volumetric"], strict=True)
    )
    print(
        f"  {way} / volumetric, {what}: {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)"
    )


def run_turn(way: str, chosen: argparse.Namespace) -> dict[str, float]:
    numbers = {"slices": chosen.slices, "size": chosen.size, "chunk": chosen.chunk}
    options = [text for name, number in numbers.items() for text in (f"--{name}", str(number))]
    command = [sys.executable, __file__, "--way", way, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    turn: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return turn


@torch.inference_mode()
def take_turn(chosen: argparse.Namespace) -> dict[str, float]:
    """Seconds for the volume, peak memory, and the first logit."""
    torch.manual_seed(0)
    answer = make_way(chosen.way, chunk=chosen.chunk)
    volume = torch.randn(1, 1, chosen.slices, chosen.size, chosen.size)
    answer(volume[:, :, :2])  # whatever is set up once
    held_mb = peak_mb()
    started = time.perf_counter()
    logits = answer(volume)
    seconds = time.perf_counter() - started
    peak = peak_mb()
    return {
        "seconds": seconds,
        "peak_mb": peak,
        "added_mb": peak - held_mb,
        "answer": float(logits[0, 0]),
    }


def make_way(way: str, *, chunk: int) -> Answer:
    from volumetric.models import slice_network

    network = slice_network(
        "resnet18", n_channels=1, n_classes=2, aggregate="attention", chunk=chunk
    ).eval()
    if way == "volumetric":
        return network
    trunk = network.trunk
    if way == "loop":

        def loop(volume: torch.Tensor) -> torch.Tensor:
            found = torch.stack([trunk(volume[:, :, d]) for d in range(volume.shape[2])], 2)
            logits: torch.Tensor = network.heads[0](found[..., None, None])
            return logits

        return loop
    from monai.networks.nets import MILModel

    model = MILModel(
        2, mil_mode="att", pretrained=False, backbone=trunk, backbone_num_features=512
    ).eval()
    return lambda volume: model(volume.movedim(2, 1))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
