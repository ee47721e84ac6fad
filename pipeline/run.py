"""The folder of one run: what each stage leaves for the next, and for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pipeline.classification.config import ClassifyConfig
from pipeline.classification.scan_config import ClassifyScansConfig
from pipeline.config import RunConfig, dump_config, load_config, parse_config
from pipeline.detection.config import DetectConfig
from pipeline.files import read_json, write_json, write_text
from pipeline.instances.config import InstancesConfig
from pipeline.manifest import DataSet, find_manifest, load_cases, load_data_set
from pipeline.pretraining.config import PretrainClipsConfig, PretrainConfig
from pipeline.provenance import write_provenance
from pipeline.segmentation.config import SegmentConfig
from volumetric.cases import Case
from volumetric.errors import ConfigError, OutputError, VolumetricError
from volumetric.folds import with_folds
from volumetric.network_names import weights_path

WITHOUT_LABELS = ("pretrain", "pretrain_clips")
_OF_VOXELS = ("segment", "detect", "instances")
_Config = TypeVar("_Config", bound=RunConfig, covariant=True)


@dataclass(frozen=True)
class Run(Generic[_Config]):
    """A run folder with its configuration. Its files are named here and nowhere else."""

    folder: Path
    config: _Config

    @property
    def prepared(self) -> Path:
        """Prepared cases, `<case>.safetensors`."""
        return self.folder / "prepared"

    def facts(self, case: Case) -> Path:
        """What was measured of a case."""
        return self.prepared / f"{case.id}.json"

    @property
    def model(self) -> Path:
        """The exported model folder."""
        return self.folder / "model"

    @property
    def predictions(self) -> Path:
        """What was predicted, `<case>.nii.gz` or `<case>.json`."""
        return self.folder / "predictions"

    def fold(self, fold: int) -> Path:
        """Checkpoint and history of one fold."""
        return self.folder / "folds" / str(fold)

    @cached_property
    def manifest(self) -> Path:
        """The manifest's YAML."""
        return find_manifest(self.config.data.manifest)

    @cached_property
    def data_set(self) -> DataSet:
        """What the manifest says of the data set."""
        return load_data_set(self.manifest)

    @cached_property
    def cases(self) -> list[Case]:
        """All cases of the manifest; where it has no folds, five that keep subjects together."""
        cases = load_cases(self.manifest, root=self.config.data.root)
        return with_folds(cases)

    def usable_cases(self, *stages: str) -> list[Case]:
        """The cases that none of the stages has set apart; without arguments, that none has."""
        entries = read_json(self.folder / "quarantine.json", default=[])
        bad = {entry["id"] for entry in entries if not stages or entry["stage"] in stages}
        return [case for case in self.cases if case.id not in bad]

    def labelled_cases(self) -> list[Case]:
        """The cases to learn from: prepared, and with a truth."""
        return [case for case in self.usable_cases("prepare") if self.has_truth(case)]

    def has_truth(self, case: Case) -> bool:
        """Whether what is to be found of a case is known.

        Where a clip may have several labels, an empty cell says that it has none of them.
        """
        if self.config.task in ("segment", "instances"):
            return case.mask is not None
        if self.config.task == "detect":
            return case.mask is not None or case.boxes is not None
        if self.config.task in WITHOUT_LABELS:
            return True  # a scan or clip is its own
        return case.label is not None or self.data_set.multi_label

    def with_fold(self, fold: str) -> Run[_Config]:
        """The same run, asked for another fold (a number, or "all")."""
        values = self.config.model_dump(mode="json")
        values["data"]["fold"] = fold
        config = parse_config(values, path=self.folder / "config.yaml")
        return replace(self, config=cast(_Config, config))

    def folds(self) -> list[int]:
        """The folds to hold out in turn.

        Raises:
            ConfigError: the manifest has no folds, or not the one asked for.
        """
        known = sorted({case.fold for case in self.cases if case.fold is not None})
        wanted = self.config.data.fold
        if not known or (wanted != "all" and wanted not in known):
            raise ConfigError(
                "no-such-fold",
                f"fold {wanted} was asked for, the manifest has {known}",
                "Choose one of these, or give the manifest's CSV a fold column",
                path=self.manifest,
            )
        return known if wanted == "all" else [wanted]


SegmentRun = Run[SegmentConfig]
DetectRun = Run[DetectConfig]
InstancesRun = Run[InstancesConfig]
PretrainRun = Run[PretrainConfig]
PretrainClipsRun = Run[PretrainClipsConfig]
ObjectsRun = Run[DetectConfig | InstancesConfig]
"""A run of objects, whether boxes of them are found or their voxels."""
ClassifyRun = Run[ClassifyConfig]
ClassifyScansRun = Run[ClassifyScansConfig]
LabelRun = Run[ClassifyConfig | ClassifyScansConfig]
"""A run that labels whole cases, whether clips or scans."""


def describe_origin(run: Run[Any]) -> dict[str, Any]:
    """What a model folder says of where the model came from."""
    provenance = read_json(run.folder / "provenance.json")
    return {
        "name": run.config.name,
        "data_set": run.data_set.name,
        "licence": run.data_set.licence,
        **{name: provenance[name] for name in ("commit", "versions", "manifest")},
    }


def create_run(config: RunConfig, folder: Path) -> Run[Any]:
    """The run in `folder`, made or gone on with: configuration and provenance are written.

    Raises:
        OutputError: the folder cannot be written.
        ManifestError, ConfigError: the data set or the fold is not there.
    """
    run = Run(folder, _absolute(_with_known_root(config, folder)))
    _refuse_other_truth(run)
    run.folds()
    _refuse_other(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", dump_config(run.config))
    except OSError as error:
        raise OutputError(
            "unwritable",
            f"cannot be written ({error.strerror})",
            "Choose another folder with --out",
            path=folder,
        ) from error
    write_provenance(
        folder,
        run.config,
        data_set=run.data_set.name,
        manifest=[run.manifest, run.manifest.parent / run.data_set.cases],
    )
    return run


def _refuse_other_truth(run: Run[Any]) -> None:
    """A task learns from what its manifest says of cases: classes, numbered objects, or labels."""
    data_set, task = run.data_set, run.config.task
    reason, remedy = "", ""
    if task in WITHOUT_LABELS:
        return
    if task in _OF_VOXELS and not data_set.classes:
        reason, remedy = "names labels of whole cases", "classify or classify_scans"
    elif task not in _OF_VOXELS and not data_set.labels:
        reason, remedy = "names classes of voxels", "segment or detect"
    elif task == "instances" and not data_set.instances:
        reason, remedy = "does not say that masks number objects (instances: true)", "segment"
    elif task == "segment" and data_set.instances:
        reason, remedy = "says that masks number objects (instances: true)", "instances or detect"
    if reason:
        raise ConfigError(
            "other-task",
            f"{reason}, from which task {task} cannot learn",
            f"Use task {remedy}, or another manifest",
            path=run.manifest,
        )


def _with_known_root(config: RunConfig, folder: Path) -> RunConfig:
    """Where a run stands already and no root is given, its own."""
    if config.data.root is not None or not (folder / "config.yaml").exists():
        return config
    values = config.model_dump(mode="json")
    values["data"]["root"] = open_run(folder).config.model_dump(mode="json")["data"]["root"]
    return parse_config(values, path="config")


def _absolute(config: RunConfig) -> RunConfig:
    """The same configuration, readable from any working folder."""
    values = config.model_dump(mode="json")
    manifest, root = find_manifest(config.data.manifest), config.data.root
    if Path(config.data.manifest).suffix:
        values["data"]["manifest"] = str(manifest)
    weights = weights_path(values.get("model", {}).get("weights") or "none")
    if weights is not None and weights.exists():
        values["model"]["weights"] = str(weights.resolve())
    if root is not None:
        values["data"]["root"] = str(root.resolve())
        if not root.is_dir():
            raise ConfigError(
                "missing-root",
                "is no folder",
                "Name with --root the folder that the manifest's paths start from",
                path=root,
            )
    return parse_config(values, path="config")


def _refuse_other(run: Run[Any]) -> None:
    """Results of two configurations must not mix; another fold or device is no other run."""
    path = run.folder / "config.yaml"
    if not path.exists():
        return
    ours, found = (_settings(one.config) for one in (run, open_run(run.folder)))
    differing = sorted(name for name in ours if ours[name] != found[name])
    if differing:
        raise OutputError(
            "other-run",
            f"holds a run that differs in {', '.join(differing)}",
            "Choose another folder with --out, or remove this one",
            path=run.folder,
        )


def _settings(config: RunConfig) -> dict[str, Any]:
    """What makes a run another one; the rest may change, and the keys see to it."""
    values = config.model_dump(mode="json", exclude={"device", "predict", "evaluate"})
    for name in ("fold", "root"):
        values["data"].pop(name)
    values["prepare"].pop("workers")
    return values


def open_run(folder: Path) -> Run[Any]:
    """The run that was made in `folder`.

    Raises:
        OutputError: there is none.
        ConfigError: its configuration was damaged.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise OutputError(
            "no-run", "holds no run (no config.yaml)", "Make one with `volumetric run`", path=folder
        )
    return Run(folder, load_config(path))


def quarantine(run: Run[Any], stage: str, case: Case, error: VolumetricError) -> None:
    """Set a case apart with the reason and the way out; a later entry replaces an earlier."""
    path = run.folder / "quarantine.json"
    entries = [entry for entry in read_json(path, default=[]) if entry["id"] != case.id]
    entries.append({**describe_refusal(case, error), "stage": stage})
    write_json(path, sorted(entries, key=lambda entry: str(entry["id"])))


def describe_refusal(case: Case, error: VolumetricError) -> dict[str, str]:
    """What a quarantine.json says of one case."""
    return {
        "id": case.id,
        "path": error.path or str(case.image),
        "code": error.code,
        "reason": error.reason,
        "remedy": error.remedy,
    }


def forget(run: Run[Any], stage: str, cases: Sequence[Case]) -> None:
    """Take back what a stage said of cases: it is about to try them again."""
    path = run.folder / "quarantine.json"
    again = {case.id for case in cases}
    entries = read_json(path, default=[])
    write_json(path, [e for e in entries if e["id"] not in again or e["stage"] != stage])
