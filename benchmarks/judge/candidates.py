"""Defines the yardsticks that are judged: each is a distance of features of one view, or a sum of such distances.

N images, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.judge import distances
from benchmarks.judge.views import CHANNELS, SIDES, map_columns

Distance = Callable[[Tensor, Tensor], float]

OWN = "own"  # the view of the project's features, of the labelled or the unlabelled data set
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


MEANS = "mean"
BOTH = ("mean", "spread")
HEAD = Columns([(LAST, MEANS)])
EARLY = Columns([(number, kind) for number in (2, 3, 4) for kind in BOTH])
EARLY_MEANS = Columns([(number, MEANS) for number in (2, 3, 4)])
EARLY_ALIKE = EARLY._replace(alike=True)
WHOLE = Columns([(number, kind) for number in range(1, LAST + 1) for kind in BOTH], alike=True)
WHOLE_MEANS = Columns([(number, MEANS) for number in range(1, LAST + 1)], alike=True)
FIRST_HALF = Columns([(number, kind) for number in (1, 2, 3) for kind in BOTH])
LATER = Columns([(number, kind) for number in (3, 4, 5) for kind in BOTH])
SOME = Columns([(number, kind) for number in (2, 4, 6, LAST) for kind in BOTH], alike=True)

# What is also tried on many images.
ON_MANY = (distances.own_frechet, distances.frechet, distances.shrunk_frechet, distances.kernel)
ON_MANY_COLUMNS = (None, HEAD, EARLY, EARLY_MEANS)

IN_PHOTOS = {
    "head, Frechet": (distances.frechet, HEAD),
    "head, kernel": (distances.kernel, HEAD),
    "head, energy": (distances.energy, HEAD),
    "head, Gaussian kernel": (distances.gaussian, HEAD),
    "means of maps 2-4, Frechet": (distances.frechet, EARLY_MEANS),
    "means of maps 2-4, kernel": (distances.kernel, EARLY_MEANS),
    "maps 2-4, Frechet": (distances.frechet, EARLY),
    "maps 2-4, Frechet, shrunk": (distances.shrunk_frechet, EARLY),
    "maps 2-4, kernel": (distances.kernel, EARLY),
    "map 2, Frechet": (distances.frechet, Columns([(2, kind) for kind in BOTH])),
    "map 3, Frechet": (distances.frechet, Columns([(3, kind) for kind in BOTH])),
    "map 4, Frechet": (distances.frechet, Columns([(4, kind) for kind in BOTH])),
    "maps 1-3, Frechet": (distances.frechet, FIRST_HALF),
    "maps 3-5, Frechet": (distances.frechet, LATER),
    "maps 2-4, energy": (distances.energy, EARLY),
    "maps 2-4 alike, Frechet": (distances.frechet, EARLY_ALIKE),
    "maps 2-4 alike, energy": (distances.energy, EARLY_ALIKE),
    "means of all maps alike, Frechet": (distances.frechet, WHOLE_MEANS),
    "means of all maps alike, energy": (distances.energy, WHOLE_MEANS),
    "all maps alike, Frechet": (distances.frechet, WHOLE),
    "all maps alike, kernel": (distances.kernel, WHOLE),
    "all maps alike, energy": (distances.energy, WHOLE),
    "all maps alike, Gaussian kernel": (distances.gaussian, WHOLE),
    "maps 2, 4, 6 and head alike, Frechet": (distances.frechet, SOME),
    "maps 2, 4, 6 and head alike, energy": (distances.energy, SOME),
    "all maps alike, coverage": (distances.uncovered, WHOLE),
    "all maps alike, density": (distances.thin, WHOLE),
}
IN_OTHERS = {
    "own features, Frechet (today's)": (OWN, distances.own_frechet),
    "own features, Frechet, shrunk": (OWN, distances.shrunk_frechet),
    "own features, kernel": (OWN, distances.kernel),
    "own features, energy": (OWN, distances.energy),
    "own features, coverage": (OWN, distances.uncovered),
    "own features, density": (OWN, distances.thin),
    "random network, Frechet": (RANDOM, distances.frechet),
    "random network, kernel": (RANDOM, distances.kernel),
    "random network, energy": (RANDOM, distances.energy),
    "pyramid, Frechet": (PYRAMID, distances.frechet),
    "pyramid, energy": (PYRAMID, distances.energy),
    "filters, sliced Wasserstein": (RESPONSES, distances.sliced),
}
FIRST = f"photo {SIDES[0]}"
OWN_TERM, PYRAMID_TERM = Term(OWN, distances.own_frechet), Term(PYRAMID, distances.frechet)
HEAD_TERM, EARLY_TERM = Term(FIRST, distances.frechet, HEAD), Term(FIRST, distances.frechet, EARLY)
WHOLE_TERM = Term(FIRST, distances.frechet, WHOLE)
COMBINED = {
    "own + photo 64 maps 2-4": (OWN_TERM, EARLY_TERM),
    "own + random network": (OWN_TERM, Term(RANDOM, distances.frechet)),
    "photo 64 head + maps 2-4": (HEAD_TERM, EARLY_TERM),
    "photo 64 all maps + pyramid": (WHOLE_TERM, PYRAMID_TERM),
    "photo 64 maps 2-4 + pyramid": (EARLY_TERM, PYRAMID_TERM),
}
MULTIPLIED = {
    "own x photo 64 maps 2-4": (OWN_TERM, EARLY_TERM),
    "photo 64 head x maps 2-4": (HEAD_TERM, EARLY_TERM),
    "photo 64 all maps x pyramid": (WHOLE_TERM, PYRAMID_TERM),
    "photo 64 maps 2-4 x pyramid": (EARLY_TERM, PYRAMID_TERM),
    "photo 64 head x pyramid": (HEAD_TERM, PYRAMID_TERM),
    "photo 64 head x maps 2-4 x pyramid": (HEAD_TERM, EARLY_TERM, PYRAMID_TERM),
}


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
