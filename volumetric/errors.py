"""The typed errors: what is wrong, where, why, and the way out."""

from __future__ import annotations

from pathlib import Path


class VolumetricError(Exception):
    """A refusal a person can act on. What it holds can be printed, whatever a file is called.

    Attributes:
        code: short kebab-case name of what is wrong, stable across versions.
        path: the file, folder or field concerned, by `printable`; None if there is none.
        reason: what was found.
        remedy: what to do about it.
        choices: where one of several must be chosen, what can be given as the choice.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        remedy: str,
        *,
        path: Path | str | None = None,
        choices: tuple[str, ...] = (),
    ):
        self.code = code
        self.choices = choices
        self.path = None if path is None else printable(str(path))
        self.reason = printable(" ".join(reason.split()))
        self.remedy = printable(" ".join(remedy.split()))
        super().__init__(str(self))

    def __str__(self) -> str:
        """One line: path, reason, remedy, code."""
        where = "" if self.path is None else f"{self.path}: "
        return f"{where}{self.reason}. {self.remedy}. [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling between processes, keyword argument and all."""
        return _rebuild, (
            type(self),
            (self.code, self.reason, self.remedy),
            self.path,
            self.choices,
        )


def printable(text: str) -> str:
    r"""The text on one line and valid in UTF-8: what cannot be shown is escaped, as `\n` is.

    A file's name may hold line breaks, terminal controls, marks that reverse the direction of
    reading, and bytes that are no text at all, which Python keeps as lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def _rebuild(
    kind: type[VolumetricError],
    texts: tuple[str, str, str],
    path: str | None,
    choices: tuple[str, ...],
) -> VolumetricError:
    return kind(*texts, path=path, choices=choices)


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
