"""Decides whether a challenger takes the champion's place; it changes nothing, and registry.py carries it out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pydantic import Field, field_validator

from aemodels.config import NAME, Config
from aemodels.evaluation.evaluate import direction
from aemodels.evaluation.metrics import METRICS

LONGEST_NAME, LONGEST_REASON = 100, 1_000  # characters of the name of who decides, and of the reason
NOT_MEASURED = "it was not measured"


class RegistryConfig(Config):
    """Holds where a model is registered, and when it becomes the champion."""

    name: str | None = Field(None, pattern=NAME)
    """Names the registered model, with letters, digits, . _ -; null takes the data set's name.

    A model of one's own images needs a name."""
    margin: float = Field(0.01, ge=0, lt=1)
    """Sets the smallest improvement of the primary metric, as a share of the champion's value: 0.01 is one per cent."""
    limits: dict[str, float] = Field(default_factory=dict)
    """Sets the worst values that a champion may have, by metric, such as {"mse": 0.05}."""

    repeat: bool = False
    """Lets a pipeline search and train again what the same images and settings have given before."""

    @field_validator("limits")
    @classmethod
    def _known(cls, limits: dict[str, float]) -> dict[str, float]:
        known = [name for name, metric in METRICS.items() if metric.direction]
        if unknown := [name for name in limits if name not in known]:
            raise ValueError(
                f"{unknown[0]} is not a metric that says which model is better; choose one of {', '.join(known)}"
            )
        return limits


class Decision(NamedTuple):
    """Holds what the gate decided and why."""

    promote: bool
    reason: str
    numbers: dict[str, float]


class Reasons(NamedTuple):
    """Holds why metrics of the two models are missing, by the metrics' names."""

    challenger: Mapping[str, str] = MappingProxyType({})
    champion: Mapping[str, str] = MappingProxyType({})


class Review(Config):
    """Holds what a person says of a promotion that the gate would allow."""

    approve: bool
    """Tells whether the challenger becomes the champion."""
    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    """Names who decides."""
    reason: str = Field(min_length=1, max_length=LONGEST_REASON)
    """Gives the reason, which is kept with the version."""
    id: str = ""
    """Identifies the run that asked a person, so that a task that is repeated keeps the decision once.

    It is empty where nobody was asked."""

    @property
    def verdict(self) -> str:
        """Says what the person says, in one sentence."""
        return f"{'approved' if self.approve else 'declined'} by {self.name}: {self.reason}"


def reviewed(decision: Decision, review: Review) -> Decision:
    """Returns the decision after a review: a person can decline what the gate allows, not allow what it declines."""
    return Decision(decision.promote and review.approve, f"{decision.reason}; {review.verdict}", decision.numbers)


def decide(
    challenger: Mapping[str, float],
    champion: Mapping[str, float] | None,
    primary: str,
    config: RegistryConfig,
    reasons: Reasons = Reasons(),  # noqa: B008  immutable
) -> Decision:
    """Compares two models by their metrics on the same test images.

    Where a metric that the gate goes by could not be measured, of either model, nobody is promoted.

    Args:
        champion: None where there is none yet.
        primary: the metric that defines better.
        reasons: why metrics are missing.
    """
    numbers = {primary: challenger.get(primary, math.nan)}
    if faults := _faults(challenger, primary, config, reasons.challenger):
        return Decision(False, "; ".join(faults), numbers)
    if champion is None:
        return Decision(True, "the first champion", numbers)
    if primary in reasons.champion:
        why = f"the champion cannot be judged by {primary}, since {reasons.champion[primary]}"
        return Decision(False, why, numbers)
    if primary not in champion:
        return Decision(True, f"the champion has no {primary}, as it is a model of another type", numbers)
    old = champion[primary]
    numbers[f"champion.{primary}"] = old
    if not math.isfinite(old):
        return Decision(True, f"the champion's {primary} is not finite", numbers)
    sign = 1 if _smaller_is_better(primary) else -1
    improvement, needed = sign * (old - numbers[primary]), config.margin * abs(old)
    numbers |= {"improvement": improvement, "needed": needed}
    reason = f"{primary} {numbers[primary]:.6g} against the champion's {old:.6g}: improves by {improvement:.3g}, "
    reason += f"{'more than' if improvement > needed else 'but more is needed than'} {needed:.3g}"
    return Decision(improvement > needed, reason, numbers)


def _faults(
    metrics: Mapping[str, float], primary: str, config: RegistryConfig, reasons: Mapping[str, str]
) -> list[str]:
    """Lists why a model may not be a champion, whatever it is compared with."""
    missing = [name for name in (primary, *config.limits) if name not in metrics]
    faults = [
        f"the challenger cannot be judged by {name}, since {reasons.get(name, NOT_MEASURED)}"
        for name in dict.fromkeys(missing)
    ]
    faults += [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    for name, limit in config.limits.items():
        value = metrics.get(name, math.nan)
        if value > limit if _smaller_is_better(name) else value < limit:
            faults.append(f"{name} {value:.6g} is beyond its limit {limit:g}")
    return faults


def _smaller_is_better(metric: str) -> bool:
    return direction(metric) == "minimize"
