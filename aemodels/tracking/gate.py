"""Decides whether a challenger takes the champion's place; it changes nothing, and registry.py carries it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pydantic import Field, field_validator

from aemodels.config import NAME, Config
from aemodels.evaluation.advice import NOTHING
from aemodels.evaluation.estimates import Estimate, error_of_difference
from aemodels.evaluation.metrics import METRICS
from aemodels.evaluation.metrics.samples import SAMPLES
from aemodels.texts import number, with_error

LONGEST_NAME, LONGEST_REASON = 100, 1_000  # characters of the name of who decides, and of the reason
NOT_MEASURED = "it was not measured"
CERTAIN = 2.0  # standard errors that a difference must exceed; of models that are equal, one in 44 does by chance
UNKNOWN = 0.05  # share of the champion's value, where the error of the metric is not known: what another seed changes
BOUND, DIVERGED = "negative_elbo", 1_000.0  # nats of a pixel's value, which takes 6 as it is
RECONSTRUCTIONS = {"mse", "psnr", "ssim", "explained_variance", "share_of_linear_code", "frechet_reconstructions"}
NEW_IMAGES = SAMPLES.keys() - RECONSTRUCTIONS


class Reference(NamedTuple):
    """A reference is what takes no training, and no model should be worse than; it is measured on the same images."""

    metric: str
    of_reference: str
    worse: str  # what it says if the model is worse
    counts: Callable[[str], bool] = lambda _: True  # for which primary metrics it counts


MEAN_IMAGE = Reference("mse", "mean_image_mse", "it reconstructs no better than the mean image")
LINEAR_CODE = (
    Reference("mse", "linear_code_mse", "a linear code reconstructs better", RECONSTRUCTIONS.__contains__),
    Reference(
        "frechet_samples",
        "frechet_linear_code",
        "images of a linear code are nearer to real ones",
        NEW_IMAGES.__contains__,
    ),
)


class RegistryConfig(Config):
    """Holds where a model is registered, and when it becomes the champion."""

    name: str | None = Field(None, pattern=NAME)
    """Names the registered model, with letters, digits, . _ -; null takes the data set's name.

    A model of one's own images needs a name."""
    margin: float = Field(0.02, ge=0, lt=1)
    """Sets the smallest improvement of the primary metric beyond chance, as a share of the champion's value."""
    tolerance: float = Field(0.1, ge=0)
    """Sets how much worse a model may be than a linear code, or than the champion by a second measure, as a share.

    The second measure is mse, or frechet_samples where the primary metric is about reconstructions."""
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


class Judged(NamedTuple):
    """Holds what was measured of a model, for the gate to go by."""

    metrics: Mapping[str, float]
    estimates: Mapping[str, Estimate] = MappingProxyType({})  # the metrics whose error is known
    reasons: Mapping[str, str] = MappingProxyType({})  # metric -> why it is missing
    pixels: int = 1  # values of an image

    def told(self, metric: str) -> str:
        """Writes a metric with its standard error."""
        estimate = self.estimates.get(metric)
        return with_error(self.metrics[metric], estimate.error if estimate else None)


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


def measured_for(primary: str, config: RegistryConfig) -> list[str]:
    """Names the metrics that the gate goes by, as far as a model and its data have them."""
    references = [one for one in (MEAN_IMAGE, *LINEAR_CODE) if one.counts(primary)]
    of_references = [name for one in references for name in (one.metric, one.of_reference)]
    return list(dict.fromkeys([primary, _second(primary), *config.limits, *of_references, BOUND]))


def decide(challenger: Judged, champion: Judged | None, primary: str, config: RegistryConfig) -> Decision:
    """Compares two models by what was measured of both on the same images.

    Where a metric that the gate goes by could not be measured, of either model, nobody is promoted.

    Args:
        champion: None where there is none yet.
        primary: the metric that defines better.
    """
    numbers = {primary: challenger.metrics.get(primary, math.nan)}
    faults = [*_missing(challenger, primary, config), *_beyond(challenger, config)]
    if faults := [*faults, *(_useless(challenger) or _worse_than_linear(challenger, primary, config))]:
        return Decision(False, "; ".join(faults), numbers)
    if champion is None:
        return Decision(True, f"the first champion, with {primary} {challenger.told(primary)}", numbers)
    if primary in champion.reasons:
        why = f"the champion cannot be judged by {primary}, since {champion.reasons[primary]}"
        return Decision(False, why, numbers)
    if primary not in champion.metrics:
        return Decision(True, f"the champion has no {primary}, as it is a model of another type", numbers)
    numbers[f"champion.{primary}"] = champion.metrics[primary]
    if broken := _useless(champion):
        return Decision(True, f"the champion is no good: {'; '.join(broken)}", numbers)
    better = _Difference.of(challenger, champion, primary)
    reason = f"{primary} {challenger.told(primary)} against the champion's {champion.told(primary)}: {better}"
    if better.value > 0 and (broken := _worse_than_linear(champion, primary, config)):
        return Decision(True, f"{reason}; the champion is no good: {'; '.join(broken)}", numbers)
    old = abs(champion.metrics[primary])
    needed = config.margin * old + (UNKNOWN * old if better.chance is None else better.chance)
    numbers |= {"improvement": better.value, "needed": needed}
    if better.value <= needed:
        return Decision(False, f"{reason}, but more than {number(needed)} is needed", numbers)
    reason += f", more than the {number(needed)} that are needed"
    if worse := _sacrificed(challenger, champion, primary, config):
        return Decision(False, f"{reason}; {worse}", numbers)
    return Decision(True, reason, numbers)


class _Difference(NamedTuple):
    """Says by how much one model is better than another by a metric."""

    value: float
    error: float  # NaN where it is not known

    @classmethod
    def of(cls, one: Judged, other: Judged, metric: str, of_other: str = "") -> _Difference:
        """Compares two models, or a model with another metric, a reference's."""
        of_other = of_other or metric
        value = other.metrics[of_other] - one.metrics[metric]
        known = metric in one.estimates and of_other in other.estimates
        error = error_of_difference(one.estimates[metric], other.estimates[of_other]) if known else math.nan
        return cls(value if _smaller_is_better(metric) else -value, error)

    @property
    def chance(self) -> float | None:
        """Returns a difference that is likely chance alone; None where that is not known."""
        return None if math.isnan(self.error) else CERTAIN * self.error

    def __str__(self) -> str:
        return f"{'better' if self.value >= 0 else 'worse'} by {with_error(abs(self.value), self.error)}"


def _missing(judged: Judged, primary: str, config: RegistryConfig) -> list[str]:
    """Lists what the gate has to go by and could not be measured; what a model of its type lacks is not missing."""
    missing = dict.fromkeys(name for name in (primary, *config.limits) if name not in judged.metrics)
    missing |= dict.fromkeys(name for name in (_second(primary), BOUND) if name in judged.reasons)
    why = {name: judged.reasons.get(name, NOT_MEASURED) for name in missing}
    return [f"the challenger cannot be judged by {name}, since {reason}" for name, reason in why.items()]


def _beyond(judged: Judged, config: RegistryConfig) -> list[str]:
    faults = []
    for name, limit in config.limits.items():
        value = judged.metrics.get(name, math.nan)
        if value > limit if _smaller_is_better(name) else value < limit:
            faults.append(f"{name} {number(value)} is beyond its limit {limit:g}")
    return faults


def _useless(judged: Judged) -> list[str]:
    """Lists why a model is no good for anything."""
    faults = [f"{name} is {value}" for name, value in judged.metrics.items() if not math.isfinite(value)]
    if not faults and (bound := judged.metrics.get(BOUND, 0.0)) > DIVERGED * judged.pixels:
        faults.append(f"{BOUND} is {number(bound)}: it has diverged")
    return faults or _worse_than(MEAN_IMAGE, judged)


def _worse_than_linear(judged: Judged, primary: str, config: RegistryConfig) -> list[str]:
    """Says where a linear code of the model's size is better by more than the tolerance, for such a primary metric."""
    references = [one for one in LINEAR_CODE if one.counts(primary)]
    return [fault for one in references for fault in _worse_than(one, judged, -config.tolerance)]


def _worse_than(reference: Reference, judged: Judged, better_by: float = 1 - NOTHING) -> list[str]:
    """Says where a model is not better than a reference by such a share, chance aside."""
    metric, of_reference = reference.metric, reference.of_reference
    if not {metric, of_reference} <= judged.metrics.keys():
        return []
    better = _Difference.of(judged, judged, metric, of_reference)
    if better.value >= better_by * judged.metrics[of_reference] - (better.chance or 0):
        return []
    return [f"{reference.worse} ({metric} {judged.told(metric)}, {of_reference} {judged.told(of_reference)})"]


def _sacrificed(challenger: Judged, champion: Judged, primary: str, config: RegistryConfig) -> str:
    """Says what a better challenger has become worse in; "" where that is no more than may be."""
    second = _second(primary)
    if second not in challenger.metrics or second not in champion.metrics:
        return ""
    better, old = _Difference.of(challenger, champion, second), abs(champion.metrics[second])
    if better.value >= -config.tolerance * old - (better.chance or 0):
        return ""
    return (
        f"but {second} {challenger.told(second)} against {champion.told(second)} is {better}, more than the "
        f"{100 * config.tolerance:g} % that registry.tolerance allows"
    )


def _second(primary: str) -> str:
    """Returns the measure that a better model may not sacrifice."""
    return "frechet_samples" if primary in RECONSTRUCTIONS else "mse"


def _smaller_is_better(metric: str) -> bool:
    return METRICS[metric].direction != "maximize"
