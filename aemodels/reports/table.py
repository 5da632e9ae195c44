"""Makes the table of a comparison: systems by metrics, with means and spreads over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from pydantic import ConfigDict, Field

from aemodels.config import Config
from aemodels.evaluation.metrics import METRICS
from aemodels.texts import number

ABSENT = "–"
ARROWS = {"minimize": " ↓", "maximize": " ↑", None: ""}
VALIDATION, VALIDATION_UNIT = "validation loss", "nats per image"
VALIDATION_WHAT = "the loss by which the best weights are chosen"
VALIDATION_HOW = (
    f"The {VALIDATION}, by which the best weights are chosen, is that after the last epoch; of a denoising model on "
    "corrupted images, while the distortion is of clean ones. It is each system's own, and compares only those of the "
    "same loss and likelihood."
)


class Score(Config):
    """Holds one metric of one system."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")

    mean: float
    spread: float | None
    """Gives the standard deviation of a sample over the seeds; null for one seed."""
    values: tuple[float, ...]
    """Lists the value of each seed."""
    best: bool = False
    """Tells whether no other system has a better mean."""

    @property
    def text(self) -> str:
        """Writes mean and spread as a person reads them."""
        return f"{number(self.mean)} {self.around}".rstrip()

    @property
    def around(self) -> str:
        """Writes the spread as a person reads it; it is empty where all seeds agree."""
        return f"± {self.spread:.2g}" if self.spread else ""


class Row(Config):
    """Holds what was found of one system."""

    system: str
    scores: dict[str, Score]
    """Maps metrics of the test images to scores, as far as the system has them."""
    seconds: Score
    """Gives the seconds of training alone."""
    validation: Score | None = None
    """Gives the validation loss after the last epoch, in nats per image, each system's own; null if adversarial."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Lists the metrics that could not be measured with one of the seeds, with the reason."""


class Line(NamedTuple):
    """Holds one number of all systems."""

    name: str
    unit: str
    scores: list[Score | None]  # in the order of the systems
    arrow: str = ""  # points to where the number is better


class Table(Config):
    """Holds all systems, with what was measured."""

    metrics: tuple[str, ...]
    """Names the metrics that at least one system has, the one that defines better first."""
    rows: tuple[Row, ...]
    seeds: int
    origin: str = ""
    """Says in a sentence how the table came about: command, seeds, data set, versions and device."""

    def best(self, metric: str) -> tuple[str, ...]:
        """Returns the systems whose mean no other one beats."""
        return tuple(row.system for row in self.rows if metric in row.scores and row.scores[metric].best)

    @property
    def validations(self) -> list[Score | None]:
        """Returns the validation loss of each system; it is empty where none has one."""
        found = [row.validation for row in self.rows]
        return found if any(found) else []

    def lines(self) -> Iterator[Line]:
        """Yields all that was measured: the metrics, then what is known of the trainings."""
        for name in self.metrics:
            scores = [row.scores.get(name) for row in self.rows]
            yield Line(name, METRICS[name].unit, scores, ARROWS[METRICS[name].ranking])
        if self.validations:
            yield Line(VALIDATION, VALIDATION_UNIT, self.validations)
        yield Line("training", "seconds", [row.seconds for row in self.rows])


class Measured(Config):
    """Holds what was found of a system with one seed."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")

    metrics: dict[str, float]
    seconds: float
    likelihood: str = ""
    """Names how its pixels are distributed; it is empty if the system has no likelihood."""
    validation: float | None = None
    """Gives the validation loss after the last epoch, in nats per image; null of an adversarial model."""
    made_with: str = ""
    """Names the versions and the device of its training."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Lists the metrics that could not be measured, with the reason."""


def make_table(found: Mapping[str, Sequence[Measured]], primary: str, origin: str = "") -> Table:
    """Makes the table of means and spreads.

    Args:
        found: system -> an entry for each seed.
        primary: the metric that defines better.
        origin: as the table has it.
    """
    order = sorted(METRICS, key=lambda name: name != primary)
    rows = {
        system: {
            name: _score([run.metrics[name] for run in runs])
            for name in order
            if all(name in run.metrics for run in runs)
        }
        for system, runs in found.items()
    }
    known = {name for scores in rows.values() for name in scores}
    for name in known:
        having = {system: scores for system, scores in rows.items() if name in scores}
        if not METRICS[name].of_likelihood or len({found[system][0].likelihood for system in having}) == 1:
            _mark_best(name, having)
    return Table(
        metrics=tuple(name for name in order if name in known),
        rows=tuple(
            Row(
                system=system,
                scores=scores,
                seconds=_score([run.seconds for run in found[system]]),
                validation=_validation(found[system]),
                left_out={name: why for run in found[system] for name, why in run.left_out.items()},
            )
            for system, scores in rows.items()
        ),
        seeds=max(map(len, found.values())),
        origin=origin,
    )


def _score(values: Sequence[float]) -> Score:
    finite = all(map(math.isfinite, values))
    spread = None if len(values) < 2 else stdev(values) if finite else math.nan
    return Score(mean=fmean(values), spread=spread, values=tuple(values))


def _validation(runs: Sequence[Measured]) -> Score | None:
    losses = [run.validation for run in runs if run.validation is not None]
    return _score(losses) if losses else None


def _mark_best(metric: str, rows: dict[str, dict[str, Score]]) -> None:
    """Marks the best systems of a metric, where there are several systems and a direction."""
    direction = METRICS[metric].ranking
    means = [scores[metric].mean for scores in rows.values()]
    finite = list(filter(math.isfinite, means))
    if direction is None or len(means) < 2 or not finite:
        return
    best = min(finite) if direction == "minimize" else max(finite)
    for scores in rows.values():
        if scores[metric].mean == best:
            scores[metric] = scores[metric].model_copy(update={"best": True})


def as_markdown(table: Table, heading: str) -> str:
    """Writes the table for a README: a row for each metric, a column for each system; the best of a row is bold."""
    reasons = "\n".join(f"* {line}." for line in left_out(table))
    parts = f"# {heading}", "\n".join(_rows(table)), legend(table), reasons, table.origin
    return "\n\n".join(filter(None, parts)) + "\n"


def legend(table: Table) -> str:
    """Explains how the table is read."""
    over = (
        f"Means ± standard deviations over {table.seeds} seeds (none where they agree)"
        if table.seeds > 1
        else "One seed"
    )
    validation = f"{VALIDATION_HOW} " if table.validations else ""
    return (
        f"{over}, on the test images. Lower is better where there is an arrow down, higher where it points up, and the "
        f"best is bold, but of nats only where all have the same likelihood; {ABSENT} where a system does not have the "
        f"metric. {validation}The mean image and linear codes (principal components with as many numbers as a code) "
        "are references, for which nothing is trained. Seconds are those of training alone."
    )


def left_out(table: Table) -> list[str]:
    """Says why systems lack metrics that their kind has: a line for each reason."""
    same: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        for name, why in row.left_out.items():
            same.setdefault((name, why), []).append(row.system)
    return [f"{name} of {', '.join(systems)} was left out: {why}" for (name, why), systems in same.items()]


def _rows(table: Table) -> Iterator[str]:
    systems = [row.system for row in table.rows]
    yield _row(["metric", "unit", *systems])
    yield _row(["---", "---", *["---:"] * len(systems)])
    for name, unit, scores, arrow in table.lines():
        yield _row([f"{name}{arrow}", unit, *map(_cell, scores)])


def _cell(score: Score | None) -> str:
    if score is None:
        return ABSENT
    return f"**{score.text}**" if score.best else score.text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
