"""Evaluates a model on held-out images, by the metrics in the table METRICS."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch

from aemodels.config import SettingsError, UserError
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.estimates import Estimate
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.images import are_black_and_white
from aemodels.evaluation.leaving_out import making_from, named
from aemodels.evaluation.metrics import METRICS, Direction
from aemodels.evaluation.needs import Need
from aemodels.models.base import GenerativeModel
from aemodels.runtime.progress import Steps, finish

# What any data have by the time that a training or a search measures, although not yet when its settings are checked.
COMING: tuple[Need, ...] = ("features",)


class Evaluation(NamedTuple):
    """Holds what was measured of a model."""

    metrics: dict[str, float]  # names as in METRICS; the ones that the model and the data have
    evidence: Evidence  # what they were made from; the figures are drawn from it too
    left_out: dict[str, str]  # metric -> why it could not be measured on these images
    estimates: dict[str, Estimate]  # the metrics whose error is known

    @property
    def errors(self) -> dict[str, float]:
        """Returns the standard errors of metrics, as far as they are known."""
        errors = {name: estimate.error for name, estimate in self.estimates.items()}
        return {name: error for name, error in errors.items() if math.isfinite(error) and error > 0}


def evaluate(evidence: Evidence, only: Collection[str] | None = None) -> Evaluation:
    """Measures a model, as `evaluating` does."""
    return finish(evaluating(evidence, only))


def evaluating(evidence: Evidence, only: Collection[str] | None = None) -> Steps[Evaluation]:
    """Measures a model; the same weights give the same numbers, and no random state outside is changed.

    A metric that fails, or for which these images are not enough, is left out with its reason.

    Args:
        only: these metrics, and no work for others; None for all of the level.

    Raises:
        SettingsError: a metric that was asked for does not exist for this model and these data.
    """
    if only is None:
        return (yield from measuring(evidence, _asked(evidence.rules)))
    _require(only, evidence)
    # Trials ask for few metrics. If they are stacked on a GPU and its memory is not enough, they are stacked again.
    return (yield from measuring(evidence, only, (UserError, torch.OutOfMemoryError, MemoryError)))


def measuring(
    evidence: Evidence, wanted: Collection[str], raised: tuple[type[Exception], ...] = (UserError,)
) -> Steps[Evaluation]:
    """Measures some metrics, as far as the model and the data have them.

    Args:
        raised: errors that are not caught.
    """
    makers = {name: (METRICS[name].needs, METRICS[name].measure) for name in wanted}
    found, left_out = yield from making_from(evidence, makers, "evaluating", raised)
    estimates = {name: one for name, one in found.items() if isinstance(one, Estimate)}
    metrics = {name: one.value if isinstance(one, Estimate) else one for name, one in found.items()}
    return Evaluation(metrics, evidence, left_out, estimates)


def _asked(config: EvaluationConfig) -> list[str]:
    """Returns the metrics of the level; the one that defines better is always among them."""
    return [
        name for name, metric in METRICS.items() if config.level == "full" or not metric.slow or name == config.primary
    ]


def check_ranking(config: EvaluationConfig) -> None:
    """Checks that the primary metric says by itself which model is better, whatever the model and the data.

    Raises:
        SettingsError: it says nothing about a model, or only beside another metric, or there is no such metric.
    """
    if config.primary not in METRICS or METRICS[config.primary].ranking is None:
        known = ", ".join(name for name, metric in METRICS.items() if metric.ranking)
        raise SettingsError(
            f"evaluation.primary={config.primary}: not a metric that says by itself which model is better; "
            f"choose one of {known}"
        )


def check_primary(model: GenerativeModel, data: PreparedData, config: EvaluationConfig) -> None:
    """Checks that the primary metric exists, before the work of a training or a search; it takes a moment.

    Raises:
        SettingsError: `evaluation.primary` does not exist for this model and these data.
    """
    for split in ("val", "test"):  # the search and the gate read it on validation images, and the report on test images
        _require((config.primary,), Evidence(model, data, None, config, split), "evaluation.primary=", COMING)


def check_likelihood(model: GenerativeModel, data: PreparedData, config: EvaluationConfig) -> None:
    """Checks that a likelihood exists if one is asked for; it takes a moment.

    A comparison does not check: its systems share `evaluation`, and not all of them have a likelihood.

    Raises:
        SettingsError: a negative log-likelihood is asked for, and this model of these data has none.
    """
    # There are no validation images where a model is measured on others and its own are gone.
    for split in (name for name in ("val", "test") if data.sizes[name]):
        evidence = Evidence(model, data, None, config, split)
        if evidence.has("nll_samples") and lacking("nll", evidence):
            why = _no_likelihood(evidence)
            raise SettingsError(f"evaluation.nll_samples={config.nll_samples}: {why}, or leave it out with 0")


def _no_likelihood(evidence: Evidence) -> str:
    """Says why a model of these images has no likelihood, and what helps."""
    if not evidence.has("rate"):
        return "this model has no bound on a likelihood; choose another model.name"
    if not are_black_and_white(evidence.data, evidence.split):
        return "coin flips are no likelihood of grey pixels; set data.binarize, or train model.likelihood=gaussian"
    remedy = "" if evidence.data.binarize == "none" else "set data.binarize=none, or "
    return f"a density is none of black and white pixels; {remedy}train model.likelihood=bernoulli"


def lacking(metric: str, evidence: Evidence, coming: Collection[Need] = ()) -> list[Need]:
    """Returns what a metric needs that is not there, nor coming."""
    return [need for need in METRICS[metric].needs if need not in coming and not evidence.has(need)]


def _require(metrics: Collection[str], evidence: Evidence, setting: str = "", coming: Collection[Need] = ()) -> None:
    for name in metrics:
        if name not in METRICS:
            raise SettingsError(f"{setting}{name}: no such metric; choose from {', '.join(METRICS)}")
        if missing := " and ".join(named(need, evidence) for need in lacking(name, evidence, coming)):
            possible = [
                other for other, entry in METRICS.items() if entry.ranking and not lacking(other, evidence, coming)
            ]
            raise SettingsError(
                f"{setting}{name}: needs {missing}, which this model, these data or these "
                f"settings do not have; choose from {', '.join(possible)}"
            )


def direction(metric: str) -> Direction:
    """Tells which values of a metric are better.

    Raises:
        SettingsError: there is no such metric, or it says nothing about a model.
    """
    found = METRICS[metric].direction if metric in METRICS else None
    if found is None:
        known = ", ".join(name for name, entry in METRICS.items() if entry.direction)
        raise SettingsError(f"{metric}: not a metric that says which model is better; choose one of {known}")
    return found
