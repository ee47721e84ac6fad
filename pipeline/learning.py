"""What the training of every task that learns from patches does alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.keys import prepared_key
from pipeline.run import Run
from volumetric.cases import Case
from volumetric.errors import OutputError
from volumetric.io.prepared import Prepared, open_prepared
from volumetric.learning import Training


def training_settings(run: Run[Any]) -> Training:
    """How the network learns, as the configuration says it."""
    section = run.config.train.model_dump()
    chosen = {name: section[name] for name in Training.__dataclass_fields__ if name in section}
    return Training(**chosen, seed=run.config.seed)


def open_cases(run: Run[Any], cases: Sequence[Case]) -> list[Prepared]:
    """The prepared cases.

    Raises:
        OutputError: one was prepared for another plan, or from other bytes.
    """
    prepared = [open_prepared(run.prepared / f"{case.id}.safetensors") for case in cases]
    for case, found in zip(cases, prepared, strict=True):
        if found.facts["key"] != prepared_key(run, case):
            raise OutputError(
                "stale-prepared",
                "was prepared for another plan, or from other bytes",
                "Run `volumetric prepare` to its end first",
                path=found.path,
            )
    return prepared
