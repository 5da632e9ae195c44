"""Defines what a metric is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from aemodels.evaluation.estimates import Estimate
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.needs import Need

Direction = Literal["minimize", "maximize"]


class Metric(NamedTuple):
    """A metric is one number about a model."""

    measure: Callable[[Evidence], float | Estimate]  # an estimate where its error is known
    needs: tuple[Need, ...]
    unit: str
    direction: Direction | None  # which values are better; None where neither are
    what: str  # what it says, in a line that stands in docs/metrics.md too
    how: str  # how exactly it is measured
    ranks: bool = True  # whether a better value makes a better model by itself, and not only beside another goal
    slow: bool = False  # whether evaluation.level=quick leaves it out
    fitted: bool = False  # whether it depends on what is fitted after training: a prior, the classes' shares
    of_likelihood: bool = False  # in units of the likelihood: it compares only models that share one

    @property
    def ranking(self) -> Direction | None:
        """Tells which values make a model the better one; None where none do by themselves."""
        return self.direction if self.ranks else None
