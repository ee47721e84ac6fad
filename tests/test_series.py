"""Several runs beside the first one: each compared with it, all on one page."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.files import read_json
from pipeline.series import compare_series
from tests.test_compare import classified, segmented, write_run
from volumetric.errors import ConfigError


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
