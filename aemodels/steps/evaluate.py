"""Evaluates a trained model again, on its own test images or on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from aemodels.checkpoints.checkpoint import Loaded, ModelCard, load_model
from aemodels.checkpoints.model_files import load_history
from aemodels.config import SettingsError
from aemodels.data import DataConfig, PreparedData, prepare
from aemodels.data.folder import FolderConfig
from aemodels.data.source import OwnImagesConfig
from aemodels.evaluation.evaluate import Evaluation, check_likelihood, evaluating
from aemodels.experiment import Experiment
from aemodels.reports.page import Subject
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.runtime.environment import store_folder
from aemodels.runtime.progress import Progress, Steps
from aemodels.serving.evaluation import Examined, advice, evidence_of, images_of, subject_of
from aemodels.settings import merged
from aemodels.steps.recording import Result, changed_first, draw_model, tracked_errors
from aemodels.tracking.catalog import find
from aemodels.tracking.origin import standard_tags
from aemodels.tracking.references import registered_name
from aemodels.tracking.run import Run, start_run
from aemodels.tracking.store import open_store

SEEN = ("binarize", "fit", "levels")  # settings of data that bring images to what a model sees, beside its size
MOST_LISTED = 10  # classes that a message names


class Evaluated(Result):
    """Holds what a finished evaluation measured, and where its files and run are."""

    run_id: str
    url: str
    model: str
    metrics: dict[str, float]
    """Holds the metrics on the test images, by their tracked names."""
    errors: dict[str, float] = Field(default_factory=dict)
    """Holds their standard errors, as far as they are known, by their tracked names, such as `test/mse_error`."""
    figures: tuple[Path, ...]
    report: Path
    """Names one file for a browser, with metrics, settings and figures."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Maps each metric and figure that could not be made of these images to the reason."""
    advice: tuple[str, ...] = ()
    """Says what is wrong with the model, in a sentence each."""


def evaluate(model: str, changes: Mapping[str, Any], group: str = "") -> Steps[Evaluated]:
    """Evaluates a model on test images, in a run of its own.

    Args:
        model: NAME@ALIAS, NAME/VERSION or a run's folder.
        changes: settings of `data` and `evaluation` that differ from those that the model was trained with.

    Raises:
        SettingsError: other settings, or images of another shape, or of other classes for a conditional model.
        UserError: there is no such model, or torchrun started this.
    """
    torchrun.refuse("an evaluation")
    _check_sections(changes)
    store = open_store()
    folder = find(model)
    loaded, history = load_model(folder, str(best_device())), load_history(folder)
    # how much was measured after the training says nothing of this evaluation
    experiment = _asked(loaded.card, merged({"evaluation": {"level": "full"}}, changes))
    examined = yield from _images(loaded, experiment)
    data = examined.data
    _check(model, loaded, data)
    check_likelihood(loaded.model, data, experiment.evaluation)
    evidence = yield from evidence_of(loaded, examined, experiment.evaluation, history)
    yield Progress("evaluating", 0, 1)
    tags = {"kind": "evaluation", "model": model, "pipeline": group, **standard_tags(experiment.seed, "")}
    with start_run(store, registered_name(model) or experiment.data.listed_name, f"evaluation of {model}", tags) as run:
        run.params(changed_first(experiment))
        run.dataset(data, experiment.data.title)
        evaluation = yield from evaluating(evidence)
        subject = subject_of(loaded.card, data, model, "evaluated again", run.id, experiment)
        result = yield from _record(run, subject, evaluation, advice(loaded.card, evaluation))
    yield Progress("evaluating", 1, 1)
    return result


def _check_sections(changes: Mapping[str, Any]) -> None:
    """Refuses settings of other sections than `data` and `evaluation`, by their dotted keys."""
    for key, value in changes.items():
        if key.partition(".")[0] not in ("data", "evaluation"):
            while isinstance(value, Mapping) and value:
                inner, value = next(iter(value.items()))
                key = f"{key}.{inner}"
            raise SettingsError(f"{key}: a trained model stays as it is; give only settings of data.* and evaluation.*")


def _asked(card: ModelCard, changes: Mapping[str, Any]) -> Experiment:
    """Returns the settings after nested changes.

    A CSV file that labels the model's own images says nothing about other folders. Images of another source are brought
    to what the model sees, as far as both sources have such settings: its size, the way to it, which value is
    white, and black and white where that was so in training.

    Raises:
        SettingsError: with these changes images of the model's training would be test images.
    """
    own = card.experiment
    asked = own.override(changes)
    _check_splits(own.data, asked.data)
    if own.data.name != asked.data.name:  # another source starts from its own defaults
        both = type(own.data).model_fields.keys() & type(asked.data).model_fields.keys()
        seen = {key: getattr(own.data, key) for key in SEEN if key in both}
        seen["image_size"] = list(card.image_shape[1:])
        return asked.override({"data": {key: value for key, value in seen.items() if key not in changes["data"]}})
    if not isinstance(own.data, FolderConfig) or not isinstance(asked.data, FolderConfig):
        return asked
    others = asked.data.path != own.data.path and "labels" not in changes["data"]
    return asked.override({"data.labels": None}) if others else asked


def _check_splits(own: DataConfig, asked: DataConfig) -> None:
    """Refuses settings that draw the splits of a model's own images anew, or that have no effect on other images.

    Images are drawn by their pixels and classes, so that reading them otherwise draws anew too.

    Raises:
        SettingsError: there is such a setting.
    """
    fields = type(asked).model_fields
    for key in sorted(asked.in_splits):
        if getattr(asked, key) != (getattr(own, key) if own.name == asked.name else fields[key].default):
            remedy = "give its images as data.path, and all are evaluated" if "path" in key else "leave it out"
            raise SettingsError(f"data.{key}: a trained model keeps the splits of its images; {remedy}")
    for key in sorted(asked.in_reading):
        if _same_source(own, asked) and getattr(asked, key) != getattr(own, key):
            raise SettingsError(
                f"data.{key}: the model's own images would be drawn into other splits; leave it out, or give other "
                "images as data.path"
            )


def _same_source(own: DataConfig, other: DataConfig) -> bool:
    """Tells whether both read the same files, or the same packaged images."""
    return own.name == other.name and getattr(own, "path", None) == getattr(other, "path", None)


def _images(loaded: Loaded, experiment: Experiment) -> Steps[Examined]:
    """Prepares the images that are evaluated: all of other files or folders, and else the test images of the source.

    Raises:
        UserError: they are missing, or do not fit.
    """
    own, other = loaded.card.experiment.data, experiment.data
    if isinstance(other, OwnImagesConfig) and not _same_source(own, other):
        return (yield from images_of(loaded, other))
    data = yield from prepare(other)
    return Examined(data, data)


def _record(run: Run, subject: Subject, evaluation: Evaluation, lines: Sequence[str]) -> Steps[Evaluated]:
    """Tracks what was measured, draws it, and writes the report."""
    metrics = {f"test/{metric}": value for metric, value in evaluation.metrics.items()}
    errors = tracked_errors(evaluation)
    run.metrics(metrics | errors)
    folder = store_folder() / "evaluations" / run.id
    folder.mkdir(parents=True)
    drawn = yield from draw_model(evaluation, subject.experiment.evaluation, lines, folder, run)
    return Evaluated(
        run_id=run.id,
        url=run.url,
        model=subject.model,
        metrics=metrics,
        errors=errors,
        figures=drawn.figures,
        report=drawn.report(subject, evaluation, lines, folder, run),
        left_out=drawn.left_out,
        advice=tuple(lines),
    )


def _check(reference: str, loaded: Loaded, data: PreparedData) -> None:
    """Checks that the model can be evaluated on the images.

    Raises:
        SettingsError: they have another shape, or other classes than a conditional model knows.
    """
    card = loaded.card
    card.check_shape(data, reference)
    if loaded.model.conditional and data.classes != card.classes:
        raise SettingsError(
            f"{reference}: conditional on the classes {_listed(card.classes)}; these images have "
            f"{_listed(data.classes)}; choose images of the same classes, or train a model on these"
        )


def _listed(classes: Sequence[str]) -> str:
    """Lists the first classes, as there may be thousands."""
    more = ", ..." if len(classes) > MOST_LISTED else ""
    return f"{', '.join(classes[:MOST_LISTED])}{more}" or "no labels"
