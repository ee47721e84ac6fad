"""What scans without labels are worth: hippocampus with 5, 10, 20 and all labelled cases.

    volumetric fetch hippocampus
    .venv/bin/python benchmarks/few_labels.py --root data/Task04_Hippocampus

A U-Net learns from all scans outside fold 0 without their labels (`hippocampus_pretrain_cpu`). Then
it learns to segment from so many of them with labels, from there and from scratch: same cases, same
steps, several seeds, which also draw the cases. Goes on where it was stopped; ends with a table:
mean Dice over seeds, and the paired difference over cases, each the mean of its seeds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.files import read_json
from volumetric import bootstrap_mean, paired_difference

_LEARNED = 208  # cases outside fold 0
_COUNTS = (208, 20, 10, 5)
_STEPS = {"train.steps_per_epoch": "100", "train.epochs": "10", "train.minutes": "null"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, default=Path("runs/few_labels"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="fields")
    chosen = parser.parse_args()
    pretrained = chosen.out / "pretrained"
    shared = [one for one in chosen.fields if one.startswith(("model.", "prepare."))]
    run("hippocampus_pretrain_cpu", pretrained, chosen.root, ["name=pretrained", *shared])
    runs: list[Path] = []
    ways = {"scratch": [], "pretrained": [f"model.weights={(pretrained / 'model').resolve()}"]}
    for seed, count, way in itertools.product(range(chosen.seeds), _COUNTS, ways):
        folder = chosen.out / f"{way}_{count}_{seed}"
        fields = [f"{name}={value}" for name, value in _STEPS.items()]
        fields += [f"name={way}_{count}_{seed}", f"train.share={count / _LEARNED}", f"seed={seed}"]
        lend(folder, runs, way)
        run("hippocampus_cpu", folder, chosen.root, [*fields, *ways[way], *chosen.fields])
        runs.append(folder)
    print(f"{'labels':<8}{'from scratch':<26}{'pretrained':<26}difference")
    for count in _COUNTS:
        scores = [dice(chosen.out, way, count, chosen.seeds) for way in ways]
        first, *_ = scores
        means = [bootstrap_mean([one[case] for case in first]) for one in scores]
        found = paired_difference(*([one[case] for case in first] for one in scores))
        cells = [f"{x.mean:.4f} ({x.ci_low:.4f} to {x.ci_high:.4f})" for x in [*means, found]]
        print(f"{count:<8}{cells[0]:<26}{cells[1]:<26}{cells[2]}")


def dice(out: Path, way: str, count: int, n_seeds: int) -> dict[str, float]:
    """Mean Dice of each held-out case, the mean over seeds."""
    tables = [
        read_json(out / f"{way}_{count}_{seed}" / "results.json")["cases"]
        for seed in range(n_seeds)
    ]
    each = [{one["id"]: one["scores"]["dice"]["mean"] for one in cases} for cases in tables]
    return {case: sum(one[case] for one in each) / n_seeds for case in each[0]}


def run(preset: str, folder: Path, root: Path, fields: list[str]) -> None:
    """One run of fold 0, from raw files to report, unless it has results."""
    if (folder / "results.json").exists():
        return
    command = [sys.executable, "-m", "pipeline.cli", "run", preset, "--root", str(root)]
    command += ["--out", str(folder), "--fold", "0"]
    command += itertools.chain(*(("--set", one) for one in fields))
    subprocess.run(command, check=True)


def lend(folder: Path, others: list[Path], way: str) -> None:
    """Link what an earlier run of this way keeps of cases, which its keys prove to be the same."""
    source = next((one / "prepared" for one in others if one.name.startswith(way)), None)
    if source is not None and not (folder / "prepared").exists():
        shutil.copytree(source, folder / "prepared", copy_function=os.link)


if __name__ == "__main__":
    main()
