"""Panoptic quality beside panoptica's (Kofler et al., 2023) on random cases, one by one.

    uv venv .venv-panoptica && uv pip install --python .venv-panoptica/bin/python panoptica
    .venv/bin/python benchmarks/panoptic.py --panoptica .venv-panoptica/bin/python

panoptica needs an older NumPy than we do, hence its own environment. A case holds up to six boxes
in two or three axes, and what was found of them: moved, cut, joined, missed or made up. Pairs whose
overlap is exactly one half belong together there and not here, as Kirillov et al. ask for more than
that: cases with one are counted apart, and compared in nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volumetric.metrics.instances import (
    SAME,
    instances_statistic,
    match_instances,
    overlap_instances,
)

_PEER = """
import json, sys
import numpy as np
from panoptica import InputType, NaiveThresholdMatching, Panoptica_Evaluator
evaluator = Panoptica_Evaluator(
    expected_input=InputType.UNMATCHED_INSTANCE,
    instance_matcher=NaiveThresholdMatching(matching_threshold=0.5),
    verbose=False, log_times=False,
)
cases, told = np.load(sys.argv[1]), []
for number in range(int(sys.argv[3])):
    found, truth = cases[f"found{number}"], cases[f"truth{number}"]
    result = next(iter(evaluator.evaluate(found, truth).values()))
    told.append([result.tp, result.fp, result.fn, *(float(v) if v is not None else None for v in (
        (result.pq, result.sq, result.rq) if result.tp else (0.0, None, 0.0)))])
json.dump(told, open(sys.argv[2], "w"))
"""

Case = tuple[NDArray[np.uint16], NDArray[np.uint16]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--panoptica", type=Path, required=True, help="Python that has it")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)
    cases = [draw(rng, n_axes=2 + number % 2) for number in range(chosen.cases)]
    theirs = ask_panoptica(chosen.panoptica, cases)
    halves, farthest, n_pairs = 0, 0.0, 0
    for (found, truth), (tp, fp, fn, *qualities) in zip(cases, theirs, strict=True):
        if (overlap_instances(found, truth) == SAME).any():
            halves += 1
            continue
        own = match_instances(found, truth)
        n_pairs += own.n_pairs
        counts = (own.n_pairs, own.n_found - own.n_pairs, own.n_true - own.n_pairs)
        if counts != (tp, fp, fn):
            raise SystemExit(f"counts differ: {counts} here, {(tp, fp, fn)} there")
        measured = instances_statistic([own]).measure(np.ones((1, 1)))[0, :3]
        for one, other in zip(measured.tolist(), qualities, strict=True):
            if np.isnan(one) != (other is None):
                raise SystemExit(f"{one} here, {other} there")
            farthest = max(farthest, 0.0 if other is None else abs(one - other))
    print(f"{len(cases) - halves:,} cases compared, {n_pairs:,} pairs: all counts alike,")
    print(f"panoptic, segmentation and recognition quality within {farthest:.1e}")
    print(f"{halves:,} cases left out, which have a pair of exactly one half")


def draw(rng: np.random.Generator, *, n_axes: int) -> Case:
    """What was found and what is there; each holds something."""
    shape = (24,) * n_axes
    while True:
        truth, found = (np.zeros(shape, np.uint16) for _ in "ab")
        for number in range(1, int(rng.integers(1, 7)) + 1):
            low = rng.integers(0, 20, n_axes)
            side = rng.integers(3, 10, n_axes)
            _fill(truth, low, side, number)
            if rng.random() < 0.8:
                moved = low + rng.integers(-1, 2, n_axes)
                _fill(found, moved, side + rng.integers(0, 2, n_axes), number + 10)
        for number in range(int(rng.integers(0, 3))):
            _fill(found, rng.integers(0, 20, n_axes), rng.integers(2, 6, n_axes), 30 + number)
        if rng.random() < 0.2:
            found[found == 11] = 12  # two that became one
        if truth.any() and found.any():
            return found, truth


def ask_panoptica(python: Path, cases: list[Case]) -> list[list[float | None]]:
    """Of each case: pairs, found in none, true in none; panoptic, segmentation, recognition."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = {
            f"{name}{number}": array
            for number, case in enumerate(cases)
            for name, array in zip(("found", "truth"), case, strict=True)
        }
        given, told = Path(folder) / "cases.npz", Path(folder) / "told.json"
        np.savez(given, **arrays)
        command = [str(python), "-W", "ignore", "-c", _PEER, str(given), str(told)]
        subprocess.run([*command, str(len(cases))], check=True)
        found: list[list[float | None]] = json.loads(told.read_text(encoding="utf-8"))
        return found


def _fill(
    array: NDArray[np.uint16],
    low: NDArray[np.integer],
    side: NDArray[np.integer],
    number: int,
) -> None:
    start, stop = low.clip(0), (low + side.clip(1)).clip(0)
    array[tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))] = number


if __name__ == "__main__":
    main()
