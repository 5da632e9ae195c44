"""Evaluates a model on images that it is given, or on those of its training, and writes its report.

N images, (C, H, W) an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aemodels.checkpoints.checkpoint import Loaded, ModelCard
from aemodels.checkpoints.model_files import KEPT
from aemodels.config import UserError
from aemodels.data.arrays import ArraysConfig, as_labels, keep_arrays
from aemodels.data.evaluation_images import Expected, with_test_images
from aemodels.data.prepared import PreparedData, prepare, prepared_before
from aemodels.data.source import SourceConfig
from aemodels.evaluation.advice import READ, advise
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evaluate import Evaluation, evaluating, lacking
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import features_of
from aemodels.evaluation.images import TrainedOn
from aemodels.experiment import Experiment
from aemodels.reports.figures.model import draw_figures
from aemodels.reports.page import Subject, write_report
from aemodels.runtime.devices import best_device
from aemodels.runtime.progress import Steps
from aemodels.serving.forms import numbers_of


class Examined(NamedTuple):
    """Holds the images that a model is evaluated on, and those that the classifier of their classes is fitted to."""

    data: PreparedData  # its test images are evaluated
    beside: PreparedData | None  # has its training images; None if those of the model are gone

    def beside_own(self, card: ModelCard) -> bool:
        """Tells whether the training images are those of the model."""
        return self.beside is not None and self.beside.digest == card.digest

    def trained_on(self, card: ModelCard) -> TrainedOn | None:
        """Returns the images of the model's training, those of these data if they are the same."""
        if self.beside_own(card):
            return card.experiment.trained_on(self.data)
        return card.trained_on(self.data)


def evidence_of(
    loaded: Loaded, examined: Examined, rules: EvaluationConfig, history: Sequence[Mapping[str, float]]
) -> Steps[Evidence]:
    """Returns what a model is measured by; the history of its training is drawn beside."""
    features = None
    if examined.beside is not None:
        features = yield from features_of(examined.beside, best_device())
    trained_on = examined.trained_on(loaded.card)
    return Evidence(loaded.model, examined.data, features, rules, "test", trained_on, history)


def own_images(card: ModelCard, name: str) -> Examined:
    """Returns the test images that a model was trained beside.

    Raises:
        UserError: they are gone.
    """
    known = prepared_before(card.experiment.data, card.digest)
    if known is None:
        raise UserError(
            f"{name}: the images of its training are gone from the cache; give images, or use `aemodels evaluate`"
        )
    return Examined(known, known)


def images_of(loaded: Loaded, source: SourceConfig) -> Steps[Examined]:
    """Prepares all images of a person's own source to evaluate a model on them.

    Raises:
        UserError: they do not fit the model, or it was trained on all of them.
    """
    card = loaded.card
    own = prepared_before(card.experiment.data, card.digest)
    if own is None:
        with suppress(UserError):  # then there are no training images to compare with
            again = yield from prepare(card.experiment.data)
            own = again if again.digest == card.digest else None
    expected = Expected(card.image_shape, card.classes, loaded.model.conditional, own)
    return Examined((yield from with_test_images(expected, source)), own)


def given_images(loaded: Loaded, images: NDArray[Any], labels: Any) -> Steps[Examined]:
    """Prepares images (N, C, H, W) to evaluate a model on them.

    Args:
        labels: the classes (N,) of the images, where they are known.

    Raises:
        UserError: as for `images_of`; or the images are fewer than two, or a label is no class of the model.
    """
    if images.ndim < 3 or len(images) < 2:
        raise UserError(f"images of shape {images.shape}: give at least two images to be evaluated")
    classes = loaded.card.classes
    numbers = None if labels is None else _numbered(classes, labels, len(images))
    path = keep_arrays(images, numbers, None if labels is None else classes)
    return (yield from images_of(loaded, ArraysConfig(path=(path,), binarize=loaded.card.experiment.data.binarize)))


def _numbered(classes: Sequence[str], labels: Any, count: int) -> NDArray[Any]:
    """Returns the model's own numbers of classes for labels by name or number."""
    array = as_labels(labels, count)
    if not classes:
        raise UserError("labels: the model was trained on images without labels, so that these tell nothing; give none")
    known = numbers_of(classes, array.tolist())
    if unknown := sorted(set(array.tolist()) - known.keys()):
        raise UserError(f"labels: {unknown[0]} is no class of this model; it knows {', '.join(classes)}")
    return np.asarray([known[label] for label in array.tolist()])


def measured(loaded: Loaded, examined: Examined, history: Sequence[Mapping[str, float]]) -> Steps[Evaluation]:
    """Measures a model by all metrics, whatever its training measured."""
    rules = loaded.card.experiment.evaluation.override({"level": "full"})
    return (yield from evaluating((yield from evidence_of(loaded, examined, rules, history))))


def advice(card: ModelCard, measured: Evaluation) -> tuple[str, ...]:
    """Returns what is wrong with a model, and what helps, in a sentence each; on images of others nothing is told."""
    evidence = measured.evidence
    if evidence.data.digest != card.digest or not evidence.history:
        return ()
    kept = [epoch.get(KEPT) for epoch in evidence.history]
    if None in kept:
        return ()
    best = kept.index(1.0) + 1 if 1.0 in kept else 0
    course = card.experiment.course(evidence.data, evidence.model.selection, evidence.history, best)
    return advise(course, measured.metrics)


def own_advice(loaded: Loaded, name: str, history: Sequence[Mapping[str, float]]) -> Steps[tuple[str, ...]]:
    """Measures on a model's own test images what advice is made of, which takes little time, and returns the advice.

    Raises:
        UserError: they are gone.
    """
    examined, rules = own_images(loaded.card, name), loaded.card.experiment.evaluation
    evidence = Evidence(loaded.model, examined.data, None, rules, "test", examined.trained_on(loaded.card), history)
    needed = [metric for metric in READ if not lacking(metric, evidence)]
    return advice(loaded.card, (yield from evaluating(evidence, only=needed)))


def subject_of(
    card: ModelCard, data: PreparedData, name: str, work: str, run_id: str = "", experiment: Experiment | None = None
) -> Subject:
    """Returns what the report of an evaluation is about.

    Args:
        experiment: the settings of the evaluation; None for those of the model.
    """
    settings, trained = experiment or card.experiment, card.experiment
    if data.digest == card.digest:
        return Subject(name, work, run_id, settings, data, trained.training.images)
    return Subject(name, work, run_id, settings, data, None, data.sizes["test"], trained.data.title)


def page(card: ModelCard, name: str, measured: Evaluation) -> str:
    """Returns the report of an evaluation, one file for a browser."""
    pictures, undrawn = draw_figures(measured.evidence)
    subject = subject_of(card, measured.evidence.data, name, "evaluated")
    lines = advice(card, measured)
    left_out = measured.left_out | undrawn
    return write_report(subject, measured.metrics, pictures, left_out, lines, errors=measured.errors)
