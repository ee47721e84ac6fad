"""Preparing the 260 hippocampus cases: volumetric against nnU-Net, whole process each.

    make peers
    .venv/bin/python benchmarks/prepare.py ../shared/data/hippocampus

Both start from the raw files in a fresh process, check them, measure the fingerprint, choose a
plan and write network input, with two workers. Runs alternate, so that a drift of the machine
hits both; the ratio is taken pair by pair. nnU-Net is told to plan one configuration only
(3d_fullres), which is the least work it can do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.config import load_config
from pipeline.run import create_run

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers" / "bin"


def main() -> None:
    """Print one line a pair, then the medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, help="the hippocampus folder, with imagesTr and labelsTr"
    )
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    ratios, ours, theirs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        raw = write_nnunet_raw(arguments.data.resolve(), Path(folder) / "raw")
        for number in range(arguments.pairs):
            ours.append(time_volumetric(arguments.data.resolve(), Path(folder) / "ours"))
            theirs.append(time_nnunet(raw, Path(folder) / "theirs"))
            ratios.append(theirs[-1][0] / ours[-1][0])
            print(
                f"pair {number}: volumetric {ours[-1][0]:.1f} s wall, {ours[-1][1]:.1f} s cpu; "
                f"nnU-Net {theirs[-1][0]:.1f} s wall, {theirs[-1][1]:.1f} s cpu; "
                f"ratio {ratios[-1]:.1f}",
                flush=True,
            )
    print(
        f"median: volumetric {statistics.median(t for t, _ in ours):.1f} s, nnU-Net "
        f"{statistics.median(t for t, _ in theirs):.1f} s, "
        f"nnU-Net / volumetric {statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )


def time_volumetric(data: Path, out: Path) -> tuple[float, float]:
    """Wall and processor seconds of `volumetric prepare` on an empty run."""
    shutil.rmtree(out, ignore_errors=True)
    overrides = {"data.root": str(data), "data.fold": "0"}
    create_run(load_config("hippocampus", overrides=overrides), out)
    spent = _time([sys.executable, "-m", "pipeline.cli", "prepare", str(out)], dict(os.environ))
    n_cases = len(list((out / "prepared").glob("*.safetensors")))
    if n_cases != 260:
        raise SystemExit(f"volumetric prepared {n_cases} of 260 cases")
    return spent


def time_nnunet(raw: Path, out: Path) -> tuple[float, float]:
    """Wall and processor seconds of nnU-Net's plan_and_preprocess."""
    shutil.rmtree(out, ignore_errors=True)
    places = {"nnUNet_raw": raw, "nnUNet_preprocessed": out / "pre", "nnUNet_results": out / "res"}
    env = {**os.environ, **{name: str(path) for name, path in places.items()}}
    command = [PEERS / "nnUNetv2_plan_and_preprocess", "-d", "4", "-c", "3d_fullres"]
    spent = _time([*map(str, command), "-np", "2", "-npfp", "2", "--verify_dataset_integrity"], env)
    n_cases = len(list((out / "pre").rglob("*.pkl")))
    if n_cases != 260:
        raise SystemExit(f"nnU-Net prepared {n_cases} of 260 cases")
    return spent


def write_nnunet_raw(data: Path, raw: Path) -> Path:
    """The same files in nnU-Net's own layout, linked."""
    folder = raw / "Dataset004_Hippocampus"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    images = sorted((data / "imagesTr").glob("*.nii.gz"))
    for image in images:
        stem = image.name.removesuffix(".nii.gz")
        (folder / "imagesTr" / f"{stem}_0000.nii.gz").symlink_to(image)
        (folder / "labelsTr" / image.name).symlink_to(data / "labelsTr" / image.name)
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(images),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return raw


def _time(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
