"""Defines what a figure of a model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.needs import Need
from aemodels.reports.pictures import Picture


class FigureKind(NamedTuple):
    """Describes one figure of a model."""

    draw: Callable[[Evidence], Picture]
    needs: tuple[Need, ...]
    heading: str
    caption: str  # a sentence or two for a reader who has not seen such a figure before
    slow: bool = False  # whether evaluation.level=quick leaves it out
