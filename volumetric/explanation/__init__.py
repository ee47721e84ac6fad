"""Explanations: which part of an image spoke for a class, and which of its slices counted."""

from volumetric.explanation.maps import Explanation, explain, place_map

__all__ = ["Explanation", "explain", "place_map"]
