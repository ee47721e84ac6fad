"""Prepare: probe every clip, choose rate and size, decode once, keep small frames as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.classification.keys import prepared_key
from pipeline.files import write_json
from pipeline.keys import read_plan
from pipeline.measure import Facts, Known, Measured
from pipeline.preparation import SET, Preparation, count_labels, describe_choices, prepare_cases
from pipeline.progress import Each
from pipeline.run import ClassifyRun
from volumetric.cases import Case
from volumetric.check.clip import check_clip
from volumetric.check.clips import ClipTraits, check_clips
from volumetric.findings import Finding
from volumetric.io.prepared import write_prepared
from volumetric.io.video.clip import read_clip
from volumetric.io.video.probe import probe_video

_FASTEST = 15.0  # frames a second, unless asked for: what people do is seen at less


def prepare(run: ClassifyRun, *, each: Each | None = None) -> None:
    """Write fingerprint.json, plan.json and prepared/<case>.safetensors of every sound clip.

    Each video is decoded whole once to prove what it is (kept under prepared/probes by its
    bytes), and once to make its frames small; training never decodes. What the data doctor
    noticed goes to findings.json, the worst first, and cases with an error to quarantine.

    Raises:
        ManifestError: no case is left.
    """
    steps = Preparation(
        measure=lambda case: _measure(run, case),
        compare=lambda known: _compare(run, known),
        choose=lambda facts: _choose(run, facts),
        key=lambda case: prepared_key(run, case),
        write=lambda case, path, key: _write(run, case, path, key),
    )
    prepare_cases(run, steps, each=each)


def _probes(run: ClassifyRun) -> Path:
    return run.prepared / "probes"


def _measure(run: ClassifyRun, case: Case) -> Measured:
    data_set = run.data_set
    labels = None if case.label is None else data_set.labels
    checked = check_clip(case, labels=labels, multi_label=data_set.multi_label, cache=_probes(run))
    facts = {} if checked.traits is None else {"traits": asdict(checked.traits)}
    return Measured(checked.findings, checked.error, facts)


def _compare(run: ClassifyRun, known: Known) -> list[Finding]:
    traits = [(case, ClipTraits(**facts["traits"])) for case, facts in known]
    rates = [one.rate for _, one in traits if one.rate is not None]
    model, shortest_s = run.config.model, 0.0
    if model.sampling == "dense" and rates:
        shortest_s = ((model.frames - 1) * model.stride + 1) / _choose_rate(run, median(rates))
    return check_clips(traits, labels=run.data_set.labels, shortest_s=shortest_s)


def _choose(run: ClassifyRun, facts: Facts) -> None:
    """Write fingerprint.json and plan.json: every choice with its reason."""
    traits = [found["traits"] for found in facts.values()]
    fingerprint = _sum_up(run, traits)
    write_json(run.folder / "fingerprint.json", fingerprint)
    wanted = run.config.prepare
    usual = fingerprint["rate"]["median"]
    rate, why = _choose_rate(run, usual), SET
    if wanted.rate is None:
        why = f"the median, {usual:g}, at most {_FASTEST:g} frames a second"
    choices = {"rate": (rate, why), "short_side": (wanted.size, SET)}
    write_json(run.folder / "plan.json", describe_choices(choices))


def _choose_rate(run: ClassifyRun, usual: float) -> float:
    """Frames a second; `usual` is the median of the data set's own."""
    return run.config.prepare.rate or min(usual, _FASTEST)


def _sum_up(run: ClassifyRun, traits: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "n_cases": len(traits),
        "modality": run.data_set.modality,
        "labels": count_labels(run),
        **{
            name: _spread([one[name] for one in traits])
            for name in ("rate", "duration_s", "n_frames", "width", "height")
        },
    }


def _spread(values: list[float | None]) -> dict[str, float | None]:
    found = [value for value in values if value is not None]
    if not found:
        return {"median": None, "min": None, "max": None}
    return {"median": median(found), "min": min(found), "max": max(found)}


def _write(run: ClassifyRun, case: Case, path: Path, key: str) -> None:
    """Write one clip as network input."""
    plan, probe = read_plan(run), probe_video(case.image, cache=_probes(run))
    clip = read_clip(case.image, rate=plan["rate"], size=plan["short_side"], probe=probe)
    write_prepared(path, clip, None, foreground={}, facts={"key": key, "id": case.id})
