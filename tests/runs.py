"""A run taken through its stages, and small changes to what is asked of it."""

from __future__ import annotations

from typing import Any

from pipeline.run import Run
from pipeline.stages import find_stages


def go(run: Run[Any], fold: int = 0) -> None:
    """All stages up to the scores of a fold."""
    stages = find_stages(run)
    stages.prepare(run)
    stages.train(run, fold)
    stages.predict(run, fold)
    stages.postprocess(run)
    stages.evaluate(run)


def with_sections(values: dict[str, Any], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The configuration with some fields of its sections set otherwise."""
    changed = {name: {**values.get(name, {}), **fields} for name, fields in sections.items()}
    return {**values, **changed}
