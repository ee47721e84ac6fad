"""What weights learnt from photographs are worth: one 2D network, three ways, few labels or many.

    volumetric fetch adrenal --from adrenal_64.npz --to DATA
    .venv/bin/python benchmarks/transfer.py --root DATA --weights mobilenet_v2.pth

The network of `adrenal_slices` labels AdrenalMNIST3D from scratch, with its photographs' weights
frozen below a new head, and with all of it fine-tuned; each from 5, 20 and 100 % of the training
cases and from several seeds, which also draw the cases. Steps, batches and schedules are the same.
What differs besides `WAYS` follows from it: weights from photographs are shown values where
photographs had them, and what a frozen trunk saw can only be mirrored and mixed, not turned. Goes
on where it was stopped, leaving runs that have results as they are; ends with one page, scores by
share of the labels. Nothing is chosen on the cases that are scored.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.series import compare_series

PRESET = "adrenal_slices"
_EVENLY = {"train.layer_decay": "1.0"}  # one learning rate for all that learns
WAYS: dict[str, dict[str, str]] = {
    "scratch": {"model.weights": "none", **_EVENLY},
    "frozen": {"model.trunk": "frozen", **_EVENLY},
    "fine-tuned": {},
}
SHARES = (1.0, 0.2, 0.05)  # all of them first: what is kept of cases serves the others


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--weights", required=True, help="imagenet, or a file of torchvision's")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="fields")
    chosen = parser.parse_args()
    runs = []
    for seed, share, way in itertools.product(range(chosen.seeds), SHARES, WAYS):
        run = chosen.out / f"{way}_{100 * share:g}_{seed}"
        if not (run / "results.json").exists():
            lend(run, runs)
            train(run, way, share, seed, chosen)
        runs.append(run)
    runs.sort(key=lambda run: list(WAYS).index(run.name.split("_")[0]))
    page, _ = compare_series(runs, out=chosen.out / "series")
    print(page)


def train(run: Path, way: str, share: float, seed: int, chosen: argparse.Namespace) -> None:
    """One run, from raw files to report."""
    fields = {
        "model.weights": chosen.weights,
        **WAYS[way],
        "train.share": str(share),
        "seed": str(seed),
        "name": run.name,
    }
    settings = [f"{field}={value}" for field, value in fields.items()] + chosen.fields
    command = [sys.executable, "-m", "pipeline.cli", "run", PRESET, "--root", str(chosen.root)]
    command += ["--out", str(run), *itertools.chain(*(("--set", one) for one in settings))]
    subprocess.run(command, check=True)


def lend(run: Path, others: list[Path]) -> None:
    """Link what earlier runs keep of cases: it is the same for all, which its keys prove."""
    for kind in ("prepared", "features"):
        source = next((one / kind for one in others if (one / kind).exists()), None)
        if source is not None and not (run / kind).exists():
            shutil.copytree(source, run / kind, copy_function=os.link)


if __name__ == "__main__":
    main()
