"""Provenance: what was run, on what, with what, and how long it took."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, dump_config
from pipeline.files import hash_files, read_json, write_json

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


def write_provenance(
    folder: Path, config: RunConfig, *, data_set: str, manifest: Sequence[Path]
) -> None:
    """Write provenance.json of a run; what an earlier start noted of its stages stays."""
    earlier = read_json(folder / "provenance.json", default={})
    kept = ("started", "data_sha256", "device", "seconds")
    facts = {
        "command": describe_command(),
        "started": _now(),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "host": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "seed": config.seed,
        "manifest": {"name": data_set, "sha256": hash_files(list(manifest))},
        "config_sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
        **{name: earlier[name] for name in kept if name in earlier},
    }
    write_json(folder / "provenance.json", facts)


def record(folder: Path, **facts: Any) -> None:
    """Note facts in a run's provenance.json."""
    path = folder / "provenance.json"
    write_json(path, {**read_json(path, default={}), **facts})


def describe_command() -> str:
    """What was typed to start this."""
    return shlex.join(["volumetric", *sys.argv[1:]])


@contextmanager
def record_time(folder: Path, stage: str) -> Iterator[None]:
    """Note in a run's provenance.json how long a stage took, summed over its repetitions."""
    started = time.monotonic()
    yield
    seconds = dict(read_json(folder / "provenance.json", default={}).get("seconds", {}))
    seconds[stage] = round(seconds.get(stage, 0) + time.monotonic() - started, 2)
    record(folder, finished=_now(), commit=_commit(), seconds=seconds)


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
