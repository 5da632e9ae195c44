"""Defines what a metric is, and how its values are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.needs import Need

Direction = Literal["minimize", "maximize"]


class Metric(NamedTuple):
    """A metric is one number about a model."""

    measure: Callable[[Evidence], float]
    needs: tuple[Need, ...]
    unit: str
    direction: Direction | None  # which values are better; None: it says something, but nothing about the model
    what: str  # what it says, in a line that stands in docs/metrics.md too
    how: str  # how exactly it is measured
    alone: bool = True  # whether a better value is better by itself, or only beside another goal

    @property
    def ranking(self) -> Direction | None:
        """Tells which values make a model the better one; None where none do by themselves."""
        return self.direction if self.alone else None


def number(value: float) -> str:
    """Writes a number with four digits."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
