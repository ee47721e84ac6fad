"""Classify: new scans with a model folder, outside any run; scored where their labels are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.classification.answers import Answers, describe_answers, write_scores
from pipeline.classification.predict import describe_scores
from pipeline.classification.scans import describe_views
from pipeline.device import find_device
from pipeline.files import write_json
from pipeline.inputs import find_scans, go_through, refuse_twins
from pipeline.manifest import load_cases, load_data_set
from pipeline.provenance import describe_command
from pipeline.report.classification import write_classification_report
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import ManifestError
from volumetric.inference.scans import classify_scan
from volumetric.io.prepared import write_prepared
from volumetric.metrics.resampling import Resampling
from volumetric.model import load_scan_classifier
from volumetric.preprocess import prepare_whole
from volumetric.spec import ScanClassifierSpec

_RESAMPLES = 10_000


def classify(
    model_folder: Path,
    inputs: Sequence[Path],
    *,
    out: Path,
    device: str,
    root: Path | None = None,
    series: str | None = None,
) -> tuple[list[dict[str, str]], int]:
    """Write scores.csv, results.json and a report page; return the refusals and how many were done.

    Inputs are scans, or manifests (YAML), whose labels are scored with their intervals; `root` is
    where the manifests' paths start from, `series` chooses one where a DICOM folder holds several.
    Refused inputs are listed in `<out>/quarantine.json` with reason and remedy.

    Raises:
        UnreadableFileError: no model.
        ConfigError: the model does something else.
        ManifestError: two inputs of one name, or labels that the model does not know.
        DeviceError: no such device.
        OutputError: `out` cannot be written.
    """
    model = load_scan_classifier(model_folder, device=find_device(device))
    spec = model.spec
    cases, listed = _find_cases(inputs, spec, root=root, series=series)
    found: dict[str, Mapping[str, Any]] = {}

    def classify_case(case: Case) -> None:
        image, _ = read_case(case, classes={})
        scan = prepare_whole(
            image, spacing=spec.spacing_mm, intensity=spec.intensity, shape=spec.shape
        )
        found[case.id] = describe_scores(classify_scan(model, scan.data), spec)
        path = out / "prepared" / f"{case.id}.safetensors"  # which the report shows
        write_prepared(path, scan, None, foreground={}, facts={"id": case.id})

    refused = go_through(classify_case, cases, "classify", out=out)
    scored = [(case, found[case.id]) for case in cases if case.id in found]
    if scored:
        resampling = Resampling(_RESAMPLES, 0, 0.95)
        known = frozenset(case.id for case, _ in scored if case.id in listed or case.label)
        answers = Answers(scored, spec.classes, spec.multi_label, known, resampling)
        write_json(out / "results.json", _results(answers, spec))
        write_scores(out / "scores.csv", answers)
        write_json(out / "provenance.json", {"command": describe_command(), **spec.about})
        write_classification_report(out, [case for case, _ in scored])
    return refused, len(scored)


def _results(answers: Answers, spec: ScanClassifierSpec) -> dict[str, Any]:
    return {
        "task": "classify_scans",
        "protocol": describe_views(spec),
        **describe_answers(answers),
        "model": {**spec.about, "folds": {k: v["weights_sha256"] for k, v in spec.folds.items()}},
    }


def _find_cases(
    inputs: Sequence[Path], spec: ScanClassifierSpec, *, root: Path | None, series: str | None
) -> tuple[list[Case], frozenset[str]]:
    """The cases, and ids of those whose manifest says what they have, be it none of its labels."""
    cases: list[Case] = []
    scans = [path for path in inputs if path.suffix.lower() not in (".yaml", ".yml")]
    for path in inputs:
        if path not in scans:
            cases += _listed(path, spec, root)
    listed = frozenset(case.id for case in cases if spec.multi_label)
    if scans:
        cases += find_scans(scans, series)
    refuse_twins([case.id for case in cases])
    return cases, listed


def _listed(manifest: Path, spec: ScanClassifierSpec, root: Path | None) -> list[Case]:
    """The cases of a manifest, none of them held out in a fold of this model's."""
    labels = load_data_set(manifest).labels
    unknown = sorted(set(labels) - set(spec.classes))
    if unknown:
        raise ManifestError(
            "unknown-label",
            f"the model does not know {', '.join(map(repr, unknown))}",
            f"Use its labels: {', '.join(spec.classes)}",
            path=manifest,
        )
    return [replace(case, fold=None) for case in load_cases(manifest, root=root)]
