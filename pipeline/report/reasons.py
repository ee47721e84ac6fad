"""Why a case was given its class: the map over its planes, and the slices that counted most."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.classification.explain import Explained
from pipeline.report.explained import Decisive, draw_decisive, draw_map
from pipeline.report.pictures import Picture
from volumetric.volume import Volume


@dataclass(frozen=True)
class Reasons:
    """What spoke for a class, as pictures.

    Attributes:
        name: of the class.
        picture: of a scan, its planes with the map over them; None of a clip.
        decisive: which slices or frames counted most; None where that was not asked.
        reason: why nothing spoke for the class; None where something did.
    """

    name: str
    picture: Picture | None
    decisive: Decisive | None
    reason: str | None


def draw_reasons(explained: Explained, *, key: str) -> Reasons:
    """The pictures; `key` is unique on the page and names the images there."""
    name, seen = str(explained.facts["class"]), explained.seen
    picture = None
    if seen.kind == "scan":
        heat = Volume(explained.heat[None], seen.affine)
        picture = draw_map(seen, heat, name=name, key=key)
    decisive = None
    # A 3D network's slices are a part of its map, which is shown itself.
    if explained.weights is not None and (picture is None or explained.facts["slices_by"] != "map"):
        decisive = draw_decisive(seen, explained.weights, explained.heat, name=name)
    return Reasons(name, picture, decisive, explained.facts["reason"])
