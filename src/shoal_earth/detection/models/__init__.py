"""Detectors by name, in their published size and in one for a CPU, and how each is trained.

Importing this is light: torch, timm and transformers are loaded when a detector that needs them is built.
"""

from __future__ import annotations

from shoal_earth.detection.models.cost import Cost, cost
from shoal_earth.detection.models.recipes import Recipe, recipe
from shoal_earth.detection.models.registry import DETECTORS, PAPER, SIZES, Entry, build_detector

__all__ = ["DETECTORS", "PAPER", "SIZES", "Cost", "Entry", "Recipe", "build_detector", "cost", "recipe"]
