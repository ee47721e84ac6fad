"""The motion probe: what only the order of frames tells is learned, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.classification.recognize import recognize
from pipeline.classification.train import read_prepared
from pipeline.config import load_config
from pipeline.files import read_json
from pipeline.motions import MOTIONS, PERIOD, write_motions, write_stitched
from pipeline.run import Run, create_run
from pipeline.stages import find_stages
from volumetric.inference.clips import classify_clip
from volumetric.model import load_classifier

CHANCE = 1 / len(MOTIONS)


def learn(manifest: Path, folder: Path, **fields: Any) -> Run[Any]:
    """The demo's own recipe, ended by its steps and not by the clock."""
    given = {"data.manifest": str(manifest), "device": "cpu", "train.minutes": None}
    overrides = given | {name.replace("__", "."): value for name, value in fields.items()}
    run = create_run(load_config("demo_motions", overrides=overrides), folder)
    stages = find_stages(run)
    stages.prepare(run)
    stages.train(run, 0)
    stages.predict(run, 0)
    stages.evaluate(run)
    return run


@pytest.mark.slow
def test_motion_is_learned_from_the_order_of_frames_alone(tmp_path: Path) -> None:
    manifest = write_motions(tmp_path / "data")
    run = learn(manifest, tmp_path / "time")
    assert read_json(run.folder / "results.json")["metrics"]["top1"]["all"]["mean"] >= 0.98

    # Motions one after the other in one long video: which, and from when to when.
    video = tmp_path / "long.mp4"
    truth = write_stitched(video)
    recognize(run.model, [video], out=tmp_path / "found", device="cpu", truth=truth)
    found = read_json(tmp_path / "found" / "results.json")["metrics"]
    assert found["ap_0.5"]["all"]["mean"] >= 0.9
    assert found["boundary_error_s"]["all"]["mean"] <= 0.5

    # The same network, shown the same frames out of order.
    model = load_classifier(run.model)
    rng = np.random.default_rng(0)
    hits = []
    for case in (case for case in run.cases if case.fold == 0):
        clip = read_prepared(run, case).read_image()[:, :PERIOD]
        for _ in range(4):
            order = torch.from_numpy(rng.permutation(PERIOD))
            found = classify_clip(model, clip[:, order], views=1).probabilities
            hits.append(float(run.data_set.labels[int(found.argmax())] == case.label))
    assert abs(np.mean(hits) - CHANCE) < 0.05

    # One that sees a frame at a time, however often it is asked.
    single = {"model__frames": 1, "model__input": "rgb", "train__epochs": 4, "predict__views": 8}
    still = learn(manifest, tmp_path / "still", **single)
    by_view = read_json(still.folder / "results.json")["view_metrics"]["top1"]["all"]
    assert by_view["n"] == 64 * 8
    assert abs(by_view["mean"] - CHANCE) < 0.05
