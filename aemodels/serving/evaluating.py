"""Evaluates a model on images that it is given, or on those of its training, and writes its report.

N images, (C, H, W) an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aemodels.checkpoints.checkpoint import Loaded, ModelCard
from aemodels.checkpoints.model_files import KEPT
from aemodels.config import UserError
from aemodels.data.arrays import EvaluatedArraysConfig, as_labels, keep_arrays
from aemodels.data.prepared import PreparedData, prepare, prepared_before
from aemodels.evaluation.advice import Course, advise
from aemodels.evaluation.evaluate import Evaluation, evaluating
from aemodels.evaluation.features import feature_network
from aemodels.reports.figures.model import draw_figures
from aemodels.reports.page import Subject, write_report
from aemodels.runtime.devices import best_device
from aemodels.runtime.progress import Steps
from aemodels.serving.forms import numbers_of

FEW = 10  # images; of fewer a tenth is none


def evaluation(loaded: Loaded, data: PreparedData, history: Sequence[Mapping[str, float]] = ()) -> Steps[Evaluation]:
    """Measures a model on test images; the history of its training is drawn beside."""
    features = yield from feature_network(data, best_device())
    rules = loaded.card.experiment.evaluation.override({"level": "full"})
    trained_on = loaded.card.trained_on(data)
    return (yield from evaluating(loaded.model, data, features, rules, trained_on=trained_on, history=history))


def advice(card: ModelCard, measured: Evaluation) -> tuple[str, ...]:
    """Returns what is wrong with a model, and what helps, in a sentence each; on images of others nothing is told."""
    evidence, experiment = measured.evidence, card.experiment
    if evidence.data.digest != card.digest or not evidence.history:
        return ()
    kept = [epoch.get(KEPT) for epoch in evidence.history]
    if None in kept:
        return ()
    best = kept.index(1.0) + 1 if 1.0 in kept else 0
    seen = experiment.seen(evidence.data)
    course = Course(experiment.model, experiment.training, evidence.model.selection, seen, evidence.history, best)
    return advise(course, measured.metrics)


def own_data(card: ModelCard, name: str) -> PreparedData:
    """Returns the data that a model was trained on.

    Raises:
        UserError: they are gone.
    """
    known = prepared_before(card.experiment.data, card.digest)
    if known is None:
        raise UserError(
            f"{name}: the images of its training are gone from the cache; give images, or use `aemodels evaluate`"
        )
    return known


def given_data(card: ModelCard, images: NDArray[Any], labels: Any) -> Steps[PreparedData]:
    """Prepares images (N, C, H, W), all of which are test images.

    Args:
        labels: the classes (N,) of the images, where they are known.

    Raises:
        UserError: the images are fewer than two, or a label is no class of the model.
    """
    if images.ndim < 3 or len(images) < 2:
        raise UserError(f"images of shape {images.shape}: give at least two images to be evaluated")
    numbers = None if labels is None else _numbered(card.classes, labels, len(images))
    names = None if labels is None else card.classes or None
    path = keep_arrays(images, numbers, names, test_images=images, test_labels=numbers)
    # of the images themselves a split for validation is demanded, and not looked at
    share = 0.1 if len(images) >= FEW else 0.5
    binarize = card.experiment.data.binarize
    return (yield from prepare(EvaluatedArraysConfig(path=(path,), binarize=binarize, val_fraction=share)))


def _numbered(classes: Sequence[str], labels: Any, count: int) -> NDArray[Any]:
    """Returns the model's own numbers of classes for labels by name or number; if it has none, the labels."""
    array = as_labels(labels, count)
    if not classes:
        return array
    known = numbers_of(classes, array.tolist())
    if unknown := sorted(set(array.tolist()) - known.keys()):
        raise UserError(f"labels: {unknown[0]} is no class of this model; it knows {', '.join(classes)}")
    return np.asarray([known[label] for label in array.tolist()])


def page(card: ModelCard, name: str, measured: Evaluation) -> str:
    """Returns the report of an evaluation, one file for a browser."""
    pictures, undrawn = draw_figures(measured.evidence)
    experiment, data = card.experiment, measured.evidence.data
    own = data.digest == card.digest
    images, given = (experiment.training.images, None) if own else (None, data.sizes["test"])
    subject = Subject(name, "evaluated", "", experiment, data, images, given)
    lines = advice(card, measured)
    return write_report(subject, measured.metrics, pictures, measured.left_out | undrawn, lines)
