"""The folder of one run: what each stage leaves for the next, and for a person to look at."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, dump_config, load_config, parse_config
from pipeline.manifest import DataSet, find_manifest, load_cases, load_data_set
from volumetric.cases import Case, group_folds
from volumetric.errors import ConfigError, OutputError, VolumetricError

_PACKAGES = (
    "volumetric",
    "torch",
    "monai",
    "lightning-fabric",
    "prefect",
    "nibabel",
    "pydicom",
    "numpy",
)


@dataclass(frozen=True)
class Run:
    """A run folder with its configuration. Its files are named here and nowhere else."""

    folder: Path
    config: RunConfig

    @property
    def prepared(self) -> Path:
        """Prepared cases, `<case>.safetensors`."""
        return self.folder / "prepared"

    @property
    def model(self) -> Path:
        """The exported model folder."""
        return self.folder / "model"

    @property
    def predictions(self) -> Path:
        """Predicted masks, `<case>.nii.gz`."""
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
        if any(case.fold is not None for case in cases):
            return cases
        subjects = [case.subject for case in cases]
        folds = group_folds(subjects, n_folds=min(5, len(set(subjects))))
        return [replace(case, fold=fold) for case, fold in zip(cases, folds, strict=True)]

    def usable_cases(self, *stages: str) -> list[Case]:
        """The cases that none of the stages has set apart; without arguments, that none has."""
        entries = read_json(self.folder / "quarantine.json", default=[])
        bad = {entry["id"] for entry in entries if not stages or entry["stage"] in stages}
        return [case for case in self.cases if case.id not in bad]

    def labelled_cases(self) -> list[Case]:
        """The cases to learn from: prepared, and with a mask."""
        return [case for case in self.usable_cases("prepare") if case.mask is not None]

    def with_fold(self, fold: str) -> Run:
        """The same run, asked for another fold (a number, or "all")."""
        values = self.config.model_dump(mode="json")
        values["data"]["fold"] = fold
        return Run(self.folder, parse_config(values, path=self.folder / "config.yaml"))

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


def create_run(config: RunConfig, folder: Path) -> Run:
    """The run in `folder`, made or gone on with: configuration and provenance are written.

    Raises:
        OutputError: the folder cannot be written.
        ManifestError, ConfigError: the data set or the fold is not there.
    """
    run = Run(folder, _absolute(config))
    run.folds()
    _refuse_other(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(dump_config(run.config), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            "unwritable",
            f"cannot be written ({error.strerror})",
            "Choose another folder with --out",
            path=folder,
        ) from error
    write_json(folder / "provenance.json", _provenance(run))
    return run


def _absolute(config: RunConfig) -> RunConfig:
    """The same configuration, readable from any working folder."""
    values = config.model_dump(mode="json")
    manifest, root = find_manifest(config.data.manifest), config.data.root
    if Path(config.data.manifest).suffix:
        values["data"]["manifest"] = str(manifest)
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


def _refuse_other(run: Run) -> None:
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
    values = config.model_dump(mode="json")
    for name in ("fold", "root"):
        values["data"].pop(name)
    values.pop("device")
    return values


def open_run(folder: Path) -> Run:
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


def quarantine(run: Run, stage: str, case: Case, error: VolumetricError) -> None:
    """Set a case apart with the reason and the way out; a later entry replaces an earlier."""
    path = run.folder / "quarantine.json"
    entries = [entry for entry in read_json(path, default=[]) if entry["id"] != case.id]
    entry = {"id": case.id, "path": error.path or str(case.image), "code": error.code}
    entries.append({**entry, "reason": error.reason, "remedy": error.remedy, "stage": stage})
    write_json(path, sorted(entries, key=lambda entry: str(entry["id"])))


def forget(run: Run, stage: str, cases: Sequence[Case]) -> None:
    """Take back what a stage said of cases: it is about to try them again."""
    path = run.folder / "quarantine.json"
    again = {case.id for case in cases}
    entries = read_json(path, default=[])
    write_json(path, [e for e in entries if e["id"] not in again or e["stage"] != stage])


@contextmanager
def record_time(run: Run, stage: str) -> Iterator[None]:
    """Note in provenance.json how long a stage took."""
    started = time.monotonic()
    yield
    provenance = read_json(run.folder / "provenance.json", default={})
    seconds = dict(provenance.get("seconds", {}))
    # Summed over repetitions: what the stage has cost, not what its last, perhaps idle, one did.
    seconds[stage] = round(seconds.get(stage, 0) + time.monotonic() - started, 2)
    record(run, finished=_now(), commit=_commit(), seconds=seconds)


def record(run: Run, **facts: Any) -> None:
    """Note facts in provenance.json."""
    path = run.folder / "provenance.json"
    write_json(path, {**read_json(path, default={}), **facts})


def read_json(path: Path, *, default: Any = None) -> Any:
    """A file's JSON, or the default where there is no file.

    Raises:
        OutputError: no file and no default: the stage that makes it has not run.
    """
    if not path.exists():
        if default is None:
            raise OutputError(
                "stage-missing",
                "has not been made yet",
                "Run the earlier stages first: prepare, train, predict, evaluate, report",
                path=path,
            )
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(
            "damaged", f"is no JSON ({error})", "Remove it and run its stage again", path=path
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def hash_values(*values: Any) -> str:
    """One short hash of plain values: equal values, equal hash."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def hash_files(paths: Sequence[Path | None]) -> str:
    """SHA-256 of files' bytes, in order."""
    digest = hashlib.sha256()
    for path in paths:
        for file in [] if path is None else _files(path):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


@cache
def hash_code(*modules: str) -> str:
    """Hash of the source of some of the library's modules: other code, other results."""
    library = Path(__file__).parents[1] / "volumetric"
    files = [file for name in modules for file in [library / f"{name}.py"] if file.exists()]
    files += [file for name in modules for file in sorted((library / name).rglob("*.py"))]
    return hash_files(files)


def _provenance(run: Run) -> Mapping[str, Any]:
    config = dump_config(run.config)
    earlier = read_json(run.folder / "provenance.json", default={})
    return {
        "command": shlex.join(["volumetric", *sys.argv[1:]]),
        "started": earlier.get("started", _now()),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "host": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "seed": run.config.seed,
        "manifest": {
            "name": run.data_set.name,
            "sha256": hash_files([run.manifest, run.manifest.parent / run.data_set.cases]),
        },
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        **{name: earlier[name] for name in ("data_sha256", "device", "seconds") if name in earlier},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Commit of the code, with a + where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()
