"""What a person may choose about a run: one YAML, checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.classification.config import ClassifyConfig
from pipeline.classification.scan_config import ClassifyScansConfig
from pipeline.detection.config import DetectConfig
from pipeline.instances.config import InstancesConfig
from pipeline.pretraining.config import PretrainClipsConfig, PretrainConfig
from pipeline.segmentation.config import SegmentConfig
from volumetric.errors import ConfigError

_PRESETS = Path(__file__).parent / "configs"

RunConfig = (
    SegmentConfig
    | ClassifyConfig
    | ClassifyScansConfig
    | DetectConfig
    | InstancesConfig
    | PretrainConfig
    | PretrainClipsConfig
)
_CONFIGS: dict[str, type[RunConfig]] = {
    "segment": SegmentConfig,
    "classify": ClassifyConfig,
    "classify_scans": ClassifyScansConfig,
    "detect": DetectConfig,
    "instances": InstancesConfig,
    "pretrain": PretrainConfig,
    "pretrain_clips": PretrainClipsConfig,
}


def load_config(path: Path | str, *, overrides: dict[str, Any] | None = None) -> RunConfig:
    """The configuration in a YAML file, or the preset of that name, with dotted overrides applied.

    Raises:
        ConfigError: no such file, no YAML, or a field that is misspelt or impossible; names
            every such field.
    """
    path = _find(Path(path))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            "unreadable-config", f"is no readable YAML ({reason})", "Correct it", path=path
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            "unreadable-config",
            "holds no fields",
            "Start from a file in pipeline/configs",
            path=path,
        )
    for field, value in (overrides or {}).items():
        _set(values, field, value, path)
    return parse_config(values, path=path)


def parse_config(values: dict[str, Any], *, path: Path | str) -> RunConfig:
    """The configuration in plain values; `path` is named in errors."""
    try:
        # Segmentation came first, and need not be named.
        return _CONFIGS[values.get("task", "segment")].model_validate(values)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            "bad-config",
            f"task: is none, got {values['task']!r}",
            f"Choose one of {', '.join(_CONFIGS)}",
            path=path,
        ) from error
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, [".".join(map(str, problem["loc"])), _reason(problem)]))
            for problem in error.errors()
        )
        raise ConfigError(
            "bad-config",
            problems,
            "Correct these fields; config.py beside each task in pipeline/ tells all of them",
            path=path,
        ) from error


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def _find(path: Path) -> Path:
    preset = _PRESETS / f"{path}.yaml"
    if path.exists() or not preset.exists():
        if path.exists():
            return path
        names = ", ".join(sorted(file.stem for file in _PRESETS.glob("*.yaml")))
        raise ConfigError(
            "missing-config", "does not exist", f"Name a YAML file or a preset ({names})", path=path
        )
    return preset


def _set(values: dict[str, Any], field: str, value: Any, path: Path) -> None:
    *sections, last = field.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(
                "bad-config",
                f"{field}: {section} is no section",
                "Check the dotted name",
                path=path,
            )
    values[last] = value


def _reason(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "no such field"
    if problem["type"] == "value_error":  # one of ours, which says it all
        return str(problem["ctx"]["error"])
    if problem["type"] == "string_pattern_mismatch" and problem["loc"] == ("device",):
        return f"should be auto, cpu, cuda or cuda:N, got {problem['input']!r}"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"
