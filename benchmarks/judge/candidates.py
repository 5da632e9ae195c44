"""Defines the yardsticks that are judged: each is a distance of features of one view, or a sum of such distances.

N images, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aemodels.evaluation.metrics.samples import frechet_distance
from benchmarks.judge import distances
from benchmarks.judge.views import CHANNELS, SIDES, map_columns

Distance = Callable[[Tensor, Tensor], float]

OWN = "own"  # the view of the network of the data set, with labels or without
RANDOM, PYRAMID, RESPONSES = "random", "pyramid", "responses"
LAST = len(CHANNELS)  # the number of the head among the maps


class Columns(NamedTuple):
    """Chooses maps of the photo network, each by its number and by whether its means or spreads are taken."""

    maps: Sequence[tuple[int, str]]
    alike: bool = False  # whether each map weighs the same, by the spread of real images

    def of(self, real: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the features of both sets."""
        pairs = [self._map(real[:, columns], others[:, columns]) for columns in self._slices()]
        return torch.cat([pair[0] for pair in pairs], 1), torch.cat([pair[1] for pair in pairs], 1)

    def _slices(self) -> list[slice]:
        return [map_columns(number, kind) for number, kind in self.maps]

    def _map(self, real: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        if not self.alike:
            return real, others
        mean = real.mean(0)
        scale = (real - mean).square().sum(1).mean().sqrt().clamp(min=1e-6)
        return (real - mean) / scale, (others - mean) / scale


class Term(NamedTuple):
    """A term is a distance in one view."""

    view: str
    distance: Distance
    columns: Columns | None = None  # None takes all of the view

    def measure(self, real: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
        """Measures the distance of two sets, whose features are given by view."""
        pair = real[self.view], others[self.view]
        return self.distance(*(pair if self.columns is None else self.columns.of(*pair)))


class Candidate(NamedTuple):
    """A candidate is one term, or several together, each divided by what it measures of real images."""

    name: str
    terms: Sequence[Term]
    together: Callable[[Iterable[float]], float] = sum

    @property
    def views(self) -> set[str]:
        """Names the views that it needs."""
        return {term.view for term in self.terms}

    @property
    def cheap(self) -> bool:
        """Tells whether it is tried on many images too."""
        return all(term.distance in ON_MANY and term.columns in ON_MANY_COLUMNS for term in self.terms)

    def measure(self, real: Mapping[str, Tensor], others: Mapping[str, Tensor], floor: Mapping[str, Tensor]) -> float:
        """Measures the distance; `floor` holds the features of other real images."""
        if len(self.terms) == 1:
            return self.terms[0].measure(real, others)
        return self.together(term.measure(real, others) / max(1e-9, term.measure(real, floor)) for term in self.terms)


HEAD = Columns([(LAST, "mean")])
BOTH = ("mean", "spread")
EARLY = Columns([(number, kind) for number in (1, 2, 3) for kind in BOTH])
MIDDLE = Columns([(number, kind) for number in (2, 3, 4) for kind in BOTH])
LATER = Columns([(number, kind) for number in (3, 4, 5) for kind in BOTH])
WHOLE = Columns([(number, kind) for number in range(1, LAST + 1) for kind in BOTH], alike=True)

IN_PHOTOS = {
    "head, Frechet": (frechet_distance, HEAD),
    "head, kernel": (distances.kernel, HEAD),
    "maps 1-3, Frechet": (frechet_distance, EARLY),
    "maps 2-4, Frechet": (frechet_distance, MIDDLE),
    "maps 3-5, Frechet": (frechet_distance, LATER),
    "maps 3-5, Frechet, shrunk": (distances.shrunk_frechet, LATER),
    "maps 3-5, kernel": (distances.kernel, LATER),
    "maps 3-5, energy": (distances.energy, LATER),
    "maps 3-5, coverage": (distances.uncovered, LATER),
    "maps 3-5, density": (distances.thin, LATER),
    "all maps alike, Frechet": (frechet_distance, WHOLE),
}
IN_OTHERS = {
    "network of the data set, Frechet": (OWN, frechet_distance),
    "network of the data set, Frechet, shrunk": (OWN, distances.shrunk_frechet),
    "network of the data set, kernel": (OWN, distances.kernel),
    "network of the data set, coverage": (OWN, distances.uncovered),
    "network of the data set, density": (OWN, distances.thin),
    "random network, Frechet": (RANDOM, frechet_distance),
    "pyramid, Frechet": (PYRAMID, frechet_distance),
    "filters, sliced Wasserstein": (RESPONSES, distances.sliced),
}
PYRAMID_TERM = Term(PYRAMID, frechet_distance)
LATER_TERM, HEAD_TERM = (Term("photo 48", frechet_distance, columns) for columns in (LATER, HEAD))
COMBINED = {
    "photo 48 maps 3-5 + pyramid": (LATER_TERM, PYRAMID_TERM),
    "photo 48 head + maps 3-5": (HEAD_TERM, LATER_TERM),
}
MULTIPLIED = {
    "photo 48 maps 3-5 x pyramid": (LATER_TERM, PYRAMID_TERM),
    "photo 48 head x maps 3-5": (HEAD_TERM, LATER_TERM),
}
# What is also tried on many images.
ON_MANY = (frechet_distance, distances.kernel)
ON_MANY_COLUMNS = (None, HEAD, LATER)


def candidates() -> list[Candidate]:
    """Returns all candidates, those of the cheapest views first."""
    others = [Candidate(name, (Term(view, distance),)) for name, (view, distance) in IN_OTHERS.items()]
    photos = [
        Candidate(f"photo {side}, {name}", (Term(f"photo {side}", distance, columns),))
        for side in SIDES
        for name, (distance, columns) in IN_PHOTOS.items()
    ]
    sums = [Candidate(f"Frechet, {name}", terms) for name, terms in COMBINED.items()]
    products = [Candidate(f"Frechet, {name}", terms, math.prod) for name, terms in MULTIPLIED.items()]
    return others + photos + sums + products
