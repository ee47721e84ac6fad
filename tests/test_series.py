"""Several runs beside the first one: each compared with it, all on one page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.files import read_json
from pipeline.series import compare_series
from tests.test_compare import LABELS, N, classified, segmented, write_run
from volumetric.errors import ConfigError
from volumetric.metrics.resampling import Resampling, bootstrap_statistic


@pytest.mark.parametrize("make", [segmented, classified])
def test_each_run_is_compared_with_the_first(make, tmp_path: Path) -> None:
    gains = {"first": 0.0, "better": 0.05, "same": 0.0}
    metric, of = ("dice", "mean") if make is segmented else ("top1", "all")
    own = {"mean": 0.8, "ci_low": 0.7, "ci_high": 0.9, "n": 24, "reason": None}
    runs = [
        write_run(tmp_path / name, make(gain, seed=seed) | {"metrics": {metric: {of: own}}})
        for seed, (name, gain) in enumerate(gains.items())
    ]
    page, series = compare_series(runs, out=tmp_path / "out", n_resamples=300)
    text = page.read_text()
    assert [run["name"] for run in series["runs"]] == list(gains)
    for run in series["runs"][1:]:
        found = read_json(tmp_path / "out" / run["name"] / "comparison.json")
        for name, cells in run["metrics"].items():
            assert cells["difference"] == found["metrics"][name][of]
        assert f'href="{run["page"]}"' in text
        assert (tmp_path / "out" / run["page"]).exists()
    assert text.count("<figure>") == 1  # of the one metric that the runs themselves report
    assert text.count("0.700") == 3


def test_a_run_of_another_task_is_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", segmented(0.0))
    two = write_run(tmp_path / "two", segmented(0.0, seed=1))
    other = write_run(tmp_path / "other", classified(0.0))
    with pytest.raises(ConfigError):
        compare_series([one, two, other], out=tmp_path / "out")


def test_runs_that_differ_in_their_seed_are_taken_together(tmp_path):
    """By hand: the mean area of three networks, and its interval, all drawn at once."""
    runs = [
        write_run(
            tmp_path / f"{name}_{share}_{seed}",
            classified(skill * share**0.3, seed=3 * k + seed),
            config=f"seed: {seed}\ntrain: {{share: {share}}}\nmodel: {{weights: {name}}}\n",
        )
        for k, (name, skill) in enumerate([("none", 0.5), ("photos", 1.5)])
        for share in (0.1, 1.0)
        for seed in range(3)
    ]
    page, found = compare_series(runs, n_resamples=60)
    rows = {run["name"]: run for run in found["runs"]}
    assert list(rows) == ["none_0.1", "none_1.0", "photos_0.1", "photos_1.0"]
    row = rows["photos_1.0"]
    assert (row["curve"], row["share"], row["n_repeats"]) == ("photos", 1.0, 3)
    assert {one["field"] for one in row["settings"]} == {"train.share", "model.weights"}

    def areas(names):
        cases = [json.loads((tmp_path / n / "results.json").read_text())["cases"] for n in names]
        truth = np.array([[name in case["truth"] for name in LABELS] for case in cases[0]])
        given = [[[c["probabilities"][n] for n in LABELS] for c in own] for own in cases]

        def measure(weights):
            return np.array(
                [
                    np.mean(
                        [
                            roc_auc_score(truth[:, k], np.array(own)[:, k], sample_weight=row)
                            for own in given
                            for k in range(3)
                        ]
                    )
                    for row in weights
                ]
            )[:, None]

        return measure

    best = areas([f"photos_1.0_{seed}" for seed in range(3)])
    own = row["metrics"]["auroc"]["own"]
    by_hand = bootstrap_statistic(best, 2 * N, resampling=Resampling(60))[0]
    assert own["mean"] == pytest.approx(by_hand.mean)
    assert own["ci_low"] == pytest.approx(by_hand.ci_low)
    assert np.mean(row["metrics"]["auroc"]["each"]) == pytest.approx(own["mean"])
    assert row["reference"] == "none_1.0"  # the first curve's at the same share
    first = areas([f"none_1.0_{seed}" for seed in range(3)])
    apart = bootstrap_statistic(
        lambda weights: best(weights) - first(weights), 2 * N, resampling=Resampling(60)
    )[0]
    told = row["metrics"]["auroc"]["difference"]
    assert told["difference"] == pytest.approx(apart.mean)
    assert told["ci_low"] == pytest.approx(apart.ci_low)
    text = page.read_text()
    assert "By share of the cases" in text
    assert "10 %" in text
    assert text.count('class="share class-') == 2 * len(row["metrics"])


def test_seeds_of_one_setting_make_one_row_without_a_curve(tmp_path):
    runs = [
        write_run(tmp_path / f"s{n}", classified(1.0, seed=n), config=f"seed: {n}\n")
        for n in range(3)
    ]
    page, found = compare_series(runs, n_resamples=50)
    assert [run["name"] for run in found["runs"]] == ["s"]
    assert found["runs"][0]["metrics"]["auroc"]["difference"] is None
    assert "By share" not in page.read_text()


def test_one_run_a_share_makes_a_curve_and_warnings_are_kept(tmp_path):
    runs = [
        write_run(
            tmp_path / name / str(share),
            classified(skill * share, seed=k),
            config=f"train: {{share: {share}}}\nmodel: {{weights: {name}}}\n",
            provenance={"commit": f"c{k}", "manifest": {"name": "blobs", "sha256": str(k)}},
        )
        for k, (name, skill) in enumerate([("none", 1.0), ("photos", 2.0)])
        for share in (0.5, 1.0)
    ]
    for run in runs:  # what they are called when a name is left as the preset has it
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace(f"name: {run.name}", "name: preset"))
    page, found = compare_series(runs, out=tmp_path / "out", n_resamples=50)
    assert len({run["name"] for run in found["runs"]}) == 4
    assert len({run["curve"] for run in found["runs"]}) == 2
    assert [run["reference"] is None for run in found["runs"]] == [True, True, False, False]
    text = page.read_text()
    assert text.count('class="share class-1"') == len(found["runs"][0]["metrics"])
    assert "The manifest was another" in text
    assert "several commits" in text


def test_runs_that_share_no_case_between_all_of_them_are_refused(tmp_path):
    runs = [
        write_run(tmp_path / f"s{n}", classified(1.0, seed=n), config=f"seed: {n}\n")
        for n in range(3)
    ]
    for run, kept in zip(runs, (slice(None), slice(0, 9), slice(9, None)), strict=True):
        results = json.loads((run / "results.json").read_text())
        results["cases"] = results["cases"][kept]
        (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match="no-common-case"):
        compare_series(runs, n_resamples=50)
