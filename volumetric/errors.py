"""The typed errors: what is wrong, where, why, and the way out."""

from __future__ import annotations

from pathlib import Path


class VolumetricError(Exception):
    """A refusal a person can act on.

    Attributes:
        code: short kebab-case name of what is wrong, stable across versions.
        path: the file, folder or field concerned; None if there is none.
        reason: what was found.
        remedy: what to do about it.
    """

    def __init__(self, code: str, reason: str, remedy: str, *, path: Path | str | None = None):
        self.code = code
        self.path = None if path is None else str(path)
        self.reason = reason
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        """One line: path, reason, remedy, code."""
        where = "" if self.path is None else f"{self.path}: "
        return " ".join(f"{where}{self.reason}. {self.remedy}. [{self.code}]".split())

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling between processes, keyword argument and all."""
        return _rebuild, (type(self), self.code, self.reason, self.remedy, self.path)


def _rebuild(
    kind: type[VolumetricError], code: str, reason: str, remedy: str, path: str | None
) -> VolumetricError:
    return kind(code, reason, remedy, path=path)


class UnreadableFileError(VolumetricError):
    """A file is missing, truncated, or not what its name says."""


class GeometryError(VolumetricError):
    """Where the voxels lie cannot be proven, or two grids that must agree do not."""


class AmbiguousSeriesError(VolumetricError):
    """A folder holds several series and none was chosen."""


class UnsupportedError(VolumetricError):
    """The input is sound, but of a kind that is not read."""


class LabelError(VolumetricError):
    """A mask or label holds values its manifest does not declare."""


class IntensityError(VolumetricError):
    """An image holds values no network can use."""


class ManifestError(VolumetricError):
    """A manifest does not describe a data set."""


class ConfigError(VolumetricError):
    """A configuration asks for something impossible or misspelt."""


class DeviceError(VolumetricError):
    """The device asked for is not there."""


class TrainingError(VolumetricError):
    """Training cannot go on."""


class OutputError(VolumetricError):
    """The output cannot be written, or what a stage needs has not been made yet."""


class DownloadError(VolumetricError):
    """A data set could not be fetched or is not the one expected."""
