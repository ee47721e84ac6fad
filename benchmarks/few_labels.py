"""What cases without labels are worth: hippocampus with 5, 10, 20 and all labels, or FIR's clips.

    volumetric fetch hippocampus
    .venv/bin/python benchmarks/few_labels.py hippocampus --root data/Task04_Hippocampus
    .venv/bin/python benchmarks/few_labels.py fir --root FOLDER

A network learns from all cases outside fold 0 without their labels (the preset of pretraining).
Then it learns from so many of them with labels, from there and from scratch: same cases, same
steps, several seeds, which also draw the cases. Goes on where it was stopped; ends with a table:
the mean over seeds, and the paired difference over cases, each the mean of its seeds, with
intervals by subject.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import read_json
from volumetric import bootstrap_mean, paired_difference


@dataclass(frozen=True)
class Experiment:
    """What is learned.

    Attributes:
        pretrain: preset of learning without labels.
        learn: preset of learning with them.
        shares: parts of the labels outside fold 0, by the name they have in the table.
        fields: that all runs with labels have.
    """

    pretrain: str
    learn: str
    shares: dict[str, float]
    fields: tuple[str, ...] = ()


_EXPERIMENTS = {
    "hippocampus": Experiment(
        "hippocampus_pretrain_cpu",
        "hippocampus_cpu",
        {f"{count} labels": count / 208 for count in (5, 10, 20, 208)},
        ("train.steps_per_epoch=100", "train.epochs=10", "train.minutes=null"),
    ),
    "fir": Experiment("fir_pretrain_cpu", "fir_cpu", {"10 %": 0.1, "100 %": 1.0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=_EXPERIMENTS)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, help="default: runs/few_labels_<data>")
    parser.add_argument("--seeds", type=int, default=3)
    rows = [row for one in _EXPERIMENTS.values() for row in one.shares]
    parser.add_argument("--only", action="append", choices=rows, help="default: all of the data's")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="fields")
    chosen = parser.parse_args()
    experiment = _EXPERIMENTS[chosen.data]
    out = chosen.out or Path(f"runs/few_labels_{chosen.data}")
    wanted = chosen.only or experiment.shares
    shares = {name: share for name, share in experiment.shares.items() if name in wanted}
    pretrained = out / "pretrained"
    shared = [one for one in chosen.fields if one.startswith(("model.", "prepare."))]
    run(experiment.pretrain, pretrained, chosen.root, ["name=pretrained", *shared])
    runs: list[Path] = []
    ways = {"scratch": [], "pretrained": [f"model.weights={(pretrained / 'model').resolve()}"]}
    for share, seed, way in itertools.product(shares.values(), range(chosen.seeds), ways):
        folder = out / f"{way}_{share:.3g}_{seed}"
        fields = [*experiment.fields, f"name={folder.name}", f"train.share={share}", f"seed={seed}"]
        lend(folder, runs, way)
        run(experiment.learn, folder, chosen.root, [*fields, *ways[way], *chosen.fields])
        runs.append(folder)
    print(f"{'':<12}{'from scratch':<26}{'pretrained':<26}difference")
    for name, share in shares.items():
        scores = [read_scores(out, f"{way}_{share:.3g}", chosen.seeds) for way in ways]
        first, *_ = scores
        values = [[one[key] for key in first] for one in scores]
        subjects = [subject for _, subject in first]
        means = [bootstrap_mean(one, subjects=subjects) for one in values]
        found = paired_difference(*values, subjects=subjects)
        cells = [f"{x.mean:.4f} ({x.ci_low:.4f} to {x.ci_high:.4f})" for x in [*means, found]]
        print(f"{name:<12}{cells[0]:<26}{cells[1]:<26}{cells[2]}")


def read_scores(out: Path, name: str, n_seeds: int) -> dict[tuple[str, str], float]:
    """Dice of each held-out case and subject, or whether its label was found: mean over seeds."""
    tables = [
        read_json(out / f"{name}_{seed}" / "results.json")["cases"] for seed in range(n_seeds)
    ]
    each = [{(one["id"], one["subject"]): score(one) for one in cases} for cases in tables]
    return {key: sum(one[key] for one in each) / n_seeds for key in each[0]}


def score(case: dict[str, Any]) -> float:
    """Of a segmentation the mean Dice; of a label 1 if it is right."""
    if "predicted" in case:
        return float(case["predicted"] == case["truth"])
    return float(case["scores"]["dice"]["mean"])


def run(preset: str, folder: Path, root: Path, fields: list[str]) -> None:
    """One run of fold 0, from raw files to report; what stands of it is left as it is."""
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
