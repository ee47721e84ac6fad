"""A data set's manifest: YAML for what it is, CSV beside it for its cases."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Annotated, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    StringConstraints,
    ValidationError,
)

from volumetric.cases import Case, read_cases, read_manifest
from volumetric.errors import ManifestError, UnreadableFileError

_SHIPPED = Path(__file__).parents[1] / "data_manifests"


def _inner(folder: str) -> str:
    path = PureWindowsPath(folder)  # it knows the separators of every system
    if not path.parts or path.anchor or ".." in path.parts:
        raise ValueError("must name a folder inside the archive")
    return folder


class Archive(BaseModel):
    """Where the data set is published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: HttpUrl
    md5: Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{32}$")]
    folder: Annotated[str, AfterValidator(_inner)]
    """Folder inside the archive that paths are relative to; of an .npz, the folder to make."""
    arrays: dict[str, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=dict
    )
    """Of MedMNIST's .npz: SHA-256 of the arrays that must be there."""
    spacing_mm: tuple[float, float, float] | None = None
    """Of MedMNIST's .npz: spacing along D, H, W."""


class DataSet(BaseModel):
    """A manifest's YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    licence: str = ""
    citation: str = ""
    modality: Literal["CT", "MR", "PET", "US", "video", "other"] = "other"
    """Decides the intensity scheme: CT is absolute, the others are not."""
    classes: dict[Annotated[int, Field(ge=1, le=255)], str] = Field(default_factory=dict)
    """Name of each value of a mask but background (0)."""
    labels: tuple[str, ...] = ()
    """Labels that a whole case may have; instead of `classes`."""
    instances: bool = False
    """Whether a mask's values number objects of one class, 1 to 255, which `classes` names."""
    multi_label: bool = False
    """Whether a case may have several labels, written `one;other`, or none."""
    sides_matter: bool = False
    """Whether left and right mean something, so that no picture may be mirrored."""
    symmetric: bool = False
    """Whether a scan's mirror image, left for right, could be another's scan of the same label."""
    cases: str
    """CSV file beside this one."""
    archive: Archive | None = None


def find_manifest(name: str) -> Path:
    """Path of a manifest's YAML, from its path or the name of a shipped one."""
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml") and path.exists():
        return path.resolve()
    shipped = _SHIPPED / f"{name}.yaml"
    if shipped.exists():
        return shipped
    names = ", ".join(sorted(file.stem for file in _SHIPPED.glob("*.yaml")))
    raise ManifestError(
        "missing-manifest", "does not exist", f"Name a YAML file or one of: {names}", path=name
    )


def load_data_set(path: Path) -> DataSet:
    """What a manifest's YAML says.

    Raises:
        ManifestError: unreadable, or a field is misspelt, missing or impossible.
    """
    try:
        data_set = DataSet.model_validate(_read_yaml(path))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part)[:60] for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()[:10]
        )
        raise ManifestError(
            "bad-manifest",
            problems,
            "Correct these fields; see data_manifests/README.md",
            path=path,
        ) from error
    _check_names(data_set, path)
    return data_set


def _check_names(data_set: DataSet, path: Path) -> None:
    names = [*data_set.classes.values(), *data_set.labels]
    reason = ""
    if bool(data_set.classes) == bool(data_set.labels):
        reason = "needs either classes (of voxels) or labels (of whole cases)"
    elif len({*names, "mean", "all", ""}) < len(names) + 3:
        reason = "two classes share a name, or one is called 'mean', 'all' or nothing"
    elif data_set.instances and list(data_set.classes) != [1]:
        reason = "numbers objects (instances: true), and then has one class, numbered 1"
    elif len(data_set.labels) == 1 and not data_set.multi_label:
        reason = "has one label only, so there is nothing to tell apart"
    elif any({";", "|"} & set(name) or name != name.strip() for name in data_set.labels):
        reason = "a label has a semicolon or a bar in it, or a blank at an end"
    if reason:
        raise ManifestError(
            "bad-manifest",
            reason,
            "Give each class or label its own name; see data_manifests/README.md",
            path=path,
        )


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(read_manifest(path))
    except UnreadableFileError as error:
        raise ManifestError(error.code, error.reason, error.remedy, path=path) from error
    # Deep nesting, an impossible date, a number of 5000 digits: its parser raises anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ManifestError(
            "unreadable-manifest", f"is no readable YAML ({reason})", "Correct it", path=path
        ) from error


def load_cases(path: Path, *, root: Path | None) -> list[Case]:
    """The cases of a manifest's YAML; paths are under `root`, or the manifest's own folder."""
    return read_cases(path.parent / load_data_set(path).cases, root=root or path.parent)
