"""Lists what is measured; each group of rows has a file, and the list below is the only one."""

from __future__ import annotations

from benchmarks.rows.row import Row, Scale
from benchmarks.rows.searches import search_rows
from benchmarks.rows.surroundings import surrounding_rows
from benchmarks.rows.trainings import training_rows

__all__ = ["Row", "Scale", "all_rows"]


def all_rows(scale: Scale) -> list[Row]:
    """Returns all rows, in the order in which they are measured."""
    return [*training_rows(scale), *search_rows(scale), *surrounding_rows(scale)]
