"""DICOM parsing: pydicom made quiet, and whatever it raises a typed error."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.config import logger as pydicom_logger

from volumetric.errors import UnreadableFileError

# What keeps pydicom quiet holds for the whole process. So the first reader of any thread sets it
# and the last one undoes it: one between them would find, and leave, what another had set.
_lock = threading.Lock()
_inside = 0
_undo = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Within it pydicom neither validates, warns nor logs, since all three quote the header.

    It can be entered again and by several threads at once; the last to leave restores things.
    """
    global _inside
    with _lock:
        if not _inside:
            _hush()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _undo.close()


def _hush() -> None:
    _undo.callback(setattr, pydicom_logger, "disabled", pydicom_logger.disabled)
    pydicom_logger.disabled = True
    _undo.enter_context(disable_value_validation())
    _undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")


@contextmanager
def parsing(file: Path) -> Iterator[None]:
    """Within it pydicom is quiet, and whatever a damaged header makes it raise a typed error."""
    try:
        with quiet():
            yield
    except UnreadableFileError:
        raise
    except Exception as error:
        # An attribute is named by the standard; any other message may quote the header.
        lacking = getattr(error, "name", None) if isinstance(error, AttributeError) else None
        raise UnreadableFileError(
            "bad-header",
            "its header is cut, damaged or lacks a required value "
            f"({lacking or type(error).__name__})",
            "Copy or export it again",
            path=file,
        ) from error
