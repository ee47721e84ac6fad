"""Plan: as of segmentation, and how voxels become objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.preparation import SET, Choices
from pipeline.segmentation.plan import make_plan

_APART = 0.5  # of the smallest side, between the middles of two objects
_LEAST = 0.1  # of the voxels of a ball of that width


def plan_splitting(run: Any, fingerprint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What plan.json holds: {"values": {name: value}, "why": {name: reason}}.

    Raises:
        ConfigError: a patch size that the network cannot take.
    """
    plan = make_plan(run, fingerprint)
    wanted, side_mm = run.config.predict, fingerprint["objects"]["smallest_side_mm"] or 1.0
    # Along an axis of one voxel nothing is said of an object's size.
    flat = np.array(fingerprint["shape"]["max"]) == 1
    sides = np.where(flat, 1.0, side_mm / np.array(plan["values"]["spacing_mm"]))
    ball = _LEAST * float(np.prod(sides)) * np.pi / (4 if flat.any() else 6)
    why = f"a tenth of the objects have a side below {side_mm:g} mm"
    choices: Choices = {
        "apart_mm": (round(_APART * side_mm, 4), f"half of what is small: {why}"),
        "least_voxels": (max(1, int(ball)), f"a tenth of a small ball: {why}"),
    }
    for name in choices:
        if getattr(wanted, name) is not None:
            choices[name] = getattr(wanted, name), SET
    for name, (value, reason) in choices.items():
        plan["values"][name], plan["why"][name] = value, reason
    return plan
