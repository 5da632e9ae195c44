"""Writes report.html: all that was found about a model or a comparison, in one file, without network and scripts."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from aemodels.config import Config
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.key_metrics import shown_in
from aemodels.evaluation.metrics import METRICS
from aemodels.experiment import Experiment
from aemodels.reports.figures.comparison import COMPARISON_FIGURES
from aemodels.reports.figures.model import FIGURES
from aemodels.reports.pictures import Picture
from aemodels.reports.table import VALIDATION, VALIDATION_HOW, VALIDATION_UNIT, VALIDATION_WHAT, Score, Table, left_out
from aemodels.texts import local_time, number, with_error

SHORT = {"elbo", "knn", "mse", "psnr", "ssim"}  # abbreviations, which are written in capitals
FIRST = ("samples", "reconstructions")  # figures of the first screen
KEY_NUMBERS = 5
BETTER = {"minimize": "lower is better", "maximize": "higher is better", None: "for comparison"}
BESIDE = {"mse": "linear_code_mse", "frechet_samples": "frechet_linear_code"}  # metric -> that of its reference


class Subject(NamedTuple):
    """Holds what a report is about."""

    model: str  # a registered version, or a run's folder
    work: str  # what the run did: trained, evaluated again
    run_id: str
    experiment: Experiment
    data: PreparedData
    images: int | None = None  # how many training images it was trained on, if not on all
    given: int | None = None  # how many images were given to be evaluated, if they are not those of its training
    trained_on: str = ""  # names the images of its training then


class Contest(NamedTuple):
    """Holds what the report of a comparison is about."""

    model: str  # the name of the comparison
    run_id: str
    systems: Mapping[str, Experiment]
    data: PreparedData


class SettingRow(NamedTuple):
    """Holds one setting of an experiment."""

    key: str
    value: str  # written as the command line takes it
    description: str
    changed: bool  # differs from the default


class MetricRow(NamedTuple):
    """Holds one number, as a person reads it."""

    name: str
    value: str
    unit: str
    better: str
    what: str  # in a line
    how: str
    primary: bool  # whether the search and the gate go by it
    beside: str = ""  # what a reference reaches


class FigureRow(NamedTuple):
    """Holds one picture."""

    name: str
    heading: str
    caption: str
    source: str  # a data: address
    width: int
    height: int


def write_report(
    subject: Subject,
    metrics: Mapping[str, float],
    pictures: Mapping[str, Picture],
    reasons: Mapping[str, str] | None = None,
    advice: Sequence[str] = (),
    errors: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """Writes the report of a model.

    Args:
        metrics: on the test images, by their names in METRICS.
        pictures: by their names in FIGURES.
        reasons: why metrics and figures were left out, by their names.
        advice: what is wrong with the model and what helps, in a sentence each.
        errors: the standard errors of metrics, as far as they are known.
    """
    reasons = reasons or {}
    primary = subject.experiment.evaluation.primary
    rows = metric_rows(metrics, primary, errors)
    figures = [
        _figure_row(name, kind.heading, kind.caption, pictures[name])
        for name, kind in FIGURES.items()
        if name in pictures
    ]
    return _page(
        "report.html",
        subject=subject,
        data=subject.data,
        source=_source(subject.experiment, subject.data),
        images=subject.images,
        advice=advice,
        key=[
            _metric_row(name, with_error(value, errors.get(name)), name == primary)._replace(
                beside=_beside(name, metrics)
            )
            for name, value in key_metrics(metrics, primary).items()
        ],
        metrics=rows,
        settings=list(setting_rows(subject.experiment)),
        first=[row for row in figures if row.name in FIRST],
        figures=[row for row in figures if row.name not in FIRST],
        unmeasured={_words(name): reasons[name] for name in METRICS if name in reasons},
        undrawn={kind.heading: reasons[name] for name, kind in FIGURES.items() if name in reasons},
    )


def write_comparison(
    subject: Contest, table: Table, pictures: Mapping[str, Picture], undrawn: Mapping[str, str] | None = None
) -> str:
    """Writes the report of a comparison, with a column for each system.

    Args:
        pictures: by their names in COMPARISON_FIGURES.
        undrawn: those that could not be drawn, with the reason.
    """
    changed = {
        name: [row for row in setting_rows(experiment) if row.changed or row.key == "model.name"]
        for name, experiment in subject.systems.items()
    }
    images = {experiment.training.images for experiment in subject.systems.values()}
    pairs = [{(row.key, row.value) for row in rows} for rows in changed.values()]
    shared = set.intersection(*pairs)
    return _page(
        "comparison.html",
        subject=subject,
        data=subject.data,
        source=_source(next(iter(subject.systems.values())), subject.data),
        images=next(iter(images)) if len(images) == 1 else None,
        table=table,
        number=number,
        metrics=list(_compared(table)),
        shared=[row for row in next(iter(changed.values())) if (row.key, row.value) in shared],
        own={name: [row for row in rows if (row.key, row.value) not in shared] for name, rows in changed.items()},
        figures=[_figure_row(*COMPARISON_FIGURES[name], picture) for name, picture in pictures.items()],
        undrawn={COMPARISON_FIGURES[name][1]: reason for name, reason in (undrawn or {}).items()},
        unmeasured=left_out(table),
    )


def _source(experiment: Experiment, data: PreparedData) -> str:
    """Names the images for a person; those that were given to be evaluated may not be those of the experiment."""
    return experiment.data.title if experiment.data.name == data.name else data.name


def _compared(table: Table) -> Iterator[tuple[MetricRow, list[Score | None]]]:
    """Yields what there is to read about each number, and that number of each system."""
    for i, name in enumerate(table.metrics):
        yield _metric_row(name, "", i == 0), [row.scores.get(name) for row in table.rows]
    if table.validations:
        better, what = "each system's own", _sentence(VALIDATION_WHAT)
        loss = MetricRow(_words(VALIDATION), "", VALIDATION_UNIT, better, what, VALIDATION_HOW, primary=False)
        yield loss, table.validations


def _page(template: str, **content: Any) -> str:
    pages = Environment(
        loader=PackageLoader("aemodels.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(template).render(written=local_time(datetime.now(UTC)), **content)


def metric_rows(
    metrics: Mapping[str, float], primary: str, errors: Mapping[str, float] = MappingProxyType({})
) -> list[MetricRow]:
    """Returns the metrics, the primary one first, then in the order of METRICS, which groups them by subject."""
    order = [name for name in sorted(METRICS, key=lambda name: name != primary) if name in metrics]
    return [_metric_row(name, with_error(metrics[name], errors.get(name)), name == primary) for name in order]


def key_metrics(metrics: Mapping[str, float], primary: str) -> dict[str, float]:
    """Chooses the metrics of a first screen: what defines better, then the first ones that the model has."""
    names = [name for name in dict.fromkeys((primary, *shown_in("reports"))) if name in metrics]
    return {name: metrics[name] for name in names[:KEY_NUMBERS]}


def _metric_row(name: str, value: str, primary: bool) -> MetricRow:
    metric = METRICS[name]
    what = _sentence(metric.what)
    return MetricRow(_words(name), value, metric.unit, BETTER[metric.ranking], what, metric.how, primary)


def _beside(name: str, metrics: Mapping[str, float]) -> str:
    """Says what the reference of a metric reaches; it is empty where there is none."""
    reference = metrics.get(BESIDE.get(name, ""))
    return "" if reference is None else f"linear code of the same size {number(reference)}"


def setting_rows(config: Config, usual: Any = None, prefix: str = "") -> Iterator[SettingRow]:
    """Yields all settings below a config.

    Args:
        usual: the config that it would be by default. If it is another variant of a section, that variant's own
            defaults count.
    """
    same = type(usual) is type(config)
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        default = getattr(usual, name) if same else field.get_default(call_default_factory=True)
        if isinstance(value, Config):
            yield from setting_rows(value, default, f"{prefix}{name}.")
            continue
        changed = value != default or (name == "name" and not same)
        plain = config.model_dump(mode="json", include={name})[name]
        text = plain if isinstance(plain, str) else json.dumps(plain)
        yield SettingRow(prefix + name, text, (field.description or "").strip(), changed)


def _figure_row(name: str, heading: str, caption: str, picture: Picture) -> FigureRow:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")  # optimize=True takes 0.3 s a picture
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    height, width, _ = picture.shape
    return FigureRow(name, heading, caption, source, width, height)


def _words(name: str) -> str:
    """Writes a metric's name as in a text, such as Frechet samples or SSIM."""
    words = " ".join(word.upper() if word in SHORT else word for word in name.split("_"))
    return _sentence(words)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
