"""Records in MLflow and in folders what trainings, searches, comparisons and checks have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pydantic import ConfigDict

from aemodels.checkpoints.run_folder import RunFolder
from aemodels.config import Config
from aemodels.data import PreparedData
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evaluate import Evaluation
from aemodels.evaluation.features import Features
from aemodels.evaluation.leaving_out import as_tags
from aemodels.experiment import Experiment
from aemodels.reports.figures.model import drawing_figures
from aemodels.reports.page import Subject, key_metrics, setting_rows, write_report
from aemodels.reports.pictures import Picture
from aemodels.runtime.devices import best_device
from aemodels.runtime.files import at_path, write_whole
from aemodels.runtime.progress import Steps
from aemodels.settings import Settings
from aemodels.texts import in_markdown, number
from aemodels.tracking.catalog import REPORT
from aemodels.tracking.origin import standard_tags
from aemodels.tracking.run import Run, begun_run, end_dead_runs, has_run, resume_run, start_run
from aemodels.tracking.store import Store, within_pages
from aemodels.tracking.views import FINAL

OVERVIEW_WIDTH, SMALL_ACROSS = 570, 3  # the width in pixels, and the most pictures in a row


class Result(Config):
    """A result is what a step returns: ids, paths and numbers, of which a metric may be NaN or infinite."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")


FINISHED_BEFORE = "this work was finished before, but its result had not been shown"


def still_there(store: Store) -> Callable[[RunFolder], bool]:
    """Returns a test of finished folders: whether a folder's run is in this store, and its files where it says."""

    def is_there(folder: RunFolder) -> bool:
        result = folder.result or {}
        return result["folder"] == str(folder.path) and has_run(store, result["run_id"])

    return is_there


def open_run(
    store: Store,
    folder: RunFolder,
    experiment: str,
    title: str,
    seed: int,
    tags: Mapping[str, Any],
    parent: str | None = None,
) -> Run:
    """Resumes the run that the folder belongs to, or starts a new one; `parent` is as in `start_run`."""
    given = {key: value for key, value in tags.items() if value != ""}
    if (run_id := folder.notes().get("run_id")) and (run := resume_run(store, run_id)):
        run.tags(given)  # a pipeline that was started again has another tag
        if parent is None:
            end_dead_runs(store, given.get("pipeline", ""))
        return run
    own = {"registry.name": experiment, "folder": str(folder.path), **given}
    run = None if folder.anew else begun_run(store, experiment, {"folder": own["folder"]})
    run = run or start_run(store, experiment, title, own | standard_tags(seed, str(best_device())), parent)
    folder.note(run_id=run.id, tracked=None, times={})  # it has no metrics yet, whatever an earlier one had
    return run


def changed_first(experiment: Experiment) -> dict[str, Any]:
    """Returns all settings; those that differ from the defaults come first, and so they do on the run's page."""
    changed = [row.key for row in setting_rows(experiment) if row.changed]
    return {key: experiment.flat()[key] for key in [*changed, *experiment.flat()]}


def headline(metrics: Mapping[str, float]) -> str:
    """Writes metrics in a line."""
    return ", ".join(f"{name} {number(value)}" for name, value in metrics.items())


def tracked_errors(evaluation: Evaluation) -> dict[str, float]:
    """Returns the standard errors of metrics on the test images, by their tracked names, beside which they stand."""
    return {f"test/{name}_error": error for name, error in evaluation.errors.items()}


def keep_figures(pictures: Mapping[str, Picture], folder: Path, run: Run, first: str = "") -> tuple[Path, ...]:
    """Saves figures in the folder, and shows them in the run below a first line; returns their files."""
    show_figures(pictures, run, first)
    return save_figures(pictures, folder)


class Drawn(NamedTuple):
    """Holds what was drawn and said of a model that was evaluated."""

    key: dict[str, float]  # the metrics that matter
    pictures: dict[str, Picture]
    figures: tuple[Path, ...]  # their files
    left_out: dict[str, str]  # metric or figure -> the reason

    def report(self, subject: Subject, evaluation: Evaluation, advice: Sequence[str], folder: Path, run: Run) -> Path:
        """Writes the report of the model, keeps it in the folder and in the run, and returns its file."""
        text = write_report(subject, evaluation.metrics, self.pictures, self.left_out, advice, errors=evaluation.errors)
        return keep_report(text, folder, run)


def draw_model(
    evaluation: Evaluation, rules: EvaluationConfig, advice: Sequence[str], folder: Path, run: Run
) -> Steps[Drawn]:
    """Draws what was measured of a model; shows it in the run, below the metrics that matter and the advice."""
    pictures, undrawn = yield from drawing_figures(evaluation.evidence)
    left_out = evaluation.left_out | undrawn
    run.tags(as_tags(left_out) | ({"advice": "\n".join(advice)} if advice else {}))
    key = key_metrics(evaluation.metrics, rules.primary)
    for card in FINAL:  # image cards of MLflow's prepared view, at step 0, where its slider stands at first
        if (picture := pictures.get(card.removeprefix("test "))) is not None:
            run.image(card, picture)
    figures = keep_figures(pictures, folder, run, "\n\n".join([headline(key), *map(in_markdown, advice)]))
    return Drawn(key, pictures, figures, left_out)


def show_figures(pictures: Mapping[str, Picture], run: Run, first: str = "") -> None:
    """Logs figures in the run, whose page then shows them small below a first line, if there are any."""
    if not pictures:
        return
    for name, picture in pictures.items():
        run.figure(name, picture)
    pages = {
        "all models": run.store.pictures_url(run.experiment_id),
        "all runs": run.store.table_url(run.experiment_id),
    }
    links = ", ".join(f"[{name}]({within_pages(url)})" for name, url in pages.items())
    text = f"Large under Artifacts, figures. Beside others: {links}."
    run.describe(first, _overview(list(pictures.values())), text)


def save_figures(pictures: Mapping[str, Picture], folder: Path) -> tuple[Path, ...]:
    """Saves figures in the folder, where a person finds them without a server; returns their files."""
    (folder / "figures").mkdir(exist_ok=True)
    paths = tuple(folder / "figures" / f"{name}.png" for name in pictures)
    for path, picture in zip(paths, pictures.values(), strict=True):
        with at_path(path):
            Image.fromarray(picture).save(path)
    return paths


def keep_report(html: str, folder: Path, run: Run) -> Path:
    """Keeps a report in the folder, and in the run, whose page shows it under Artifacts; returns its file."""
    write_whole(folder / REPORT, lambda path: path.write_text(html, encoding="utf-8"))
    run.text(REPORT, html)
    return folder / REPORT


def _overview(pictures: Sequence[Picture]) -> Picture:
    """Puts all pictures in rows, small, so that they are no wider than the column of text on a run's page."""
    across = min(SMALL_ACROSS, len(pictures))
    width = OVERVIEW_WIDTH // across
    small = [Image.fromarray(p) for p in pictures]
    small = [
        image.resize((width, round(width * image.height / image.width)), Image.Resampling.LANCZOS) for image in small
    ]
    rows = [small[i : i + across] for i in range(0, len(small), across)]
    heights = [max(image.height for image in row) for row in rows]
    page = Image.new("RGB", (OVERVIEW_WIDTH, sum(heights)), "white")
    for i, row in enumerate(rows):
        for k, image in enumerate(row):
            page.paste(image, (k * width, sum(heights[:i])))
    return np.asarray(page)


def yardstick(settings: Settings, data: PreparedData, features: Features) -> str:
    """Returns what test metrics depend on beside the model, as a text; only metrics with the same one are compared."""
    how = f"{data.binarize}{features.hash}{settings.evaluation.model_dump_json(exclude={'level'})}"
    judged = hashlib.sha256(how.encode()).hexdigest()[:8]
    return f"{data.digest}-{judged}"


def is_of(measured: str, data: PreparedData) -> bool:
    """Tells whether a yardstick, such as the one that a version was registered with, is of these images."""
    return measured.startswith(f"{data.digest}-")
