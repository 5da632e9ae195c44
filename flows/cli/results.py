"""Prints results for a person, or as JSON."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aemodels.checkpoints.run_folder import COMMAND, RunFolder
from aemodels.evaluation.key_metrics import shown_in
from aemodels.texts import with_error
from flows.cli.settings_table import Setting, sections
from flows.cli.streams import is_read
from flows.terminal import as_json, facts, sentence, table, wide

if TYPE_CHECKING:
    from aemodels.data import PreparedData
    from aemodels.steps.compare import Compared
    from aemodels.steps.evaluate import Evaluated
    from aemodels.steps.finished_pipelines import Finished
    from aemodels.steps.monitor import Monitored
    from aemodels.steps.train import Trained
    from aemodels.steps.tune import Tuned
    from aemodels.tracking.catalog import Registered
    from aemodels.tracking.history import HistoryLine

SHOWN_TRIALS = 12


def told(folder: Path) -> None:
    """Notes that a command has told the result of a run, once the last of it is written where it can be read."""
    sys.stdout.flush()
    if is_read():
        RunFolder(folder).told(COMMAND)


def pipeline(result: Finished, json: bool) -> None:
    if json:
        promotion = {k: v for k, v in result.promotion.model_dump(mode="json").items() if k not in ("name", "version")}
        return as_json(
            _trained(result.trained)
            | {"data": result.data.model_dump(mode="json"), "tuned": result.tuned.model_dump(mode="json")}
            | {"promotion": promotion, "promoted": result.promotion.promoted, "champion": result.promotion.champion}
            | {"new": result.new}
        )
    if result.new:
        _trials(result.tuned)
    else:
        sentence(result.promotion.reason)
    _metrics(f"{result.promotion.name} version {result.promotion.version}, on the test images", result.trained)
    outcome = "promoted to champion" if result.promotion.promoted else "not promoted"
    here = result.trained.folder.exists()  # another machine may have done the work
    facts(
        {
            **({"search": result.tuned.note} if result.new and result.tuned.note else {}),
            **({"gate": f"{outcome}: {result.promotion.reason}"} if result.new else {}),
            **_advice(result.trained),
            **_left_out(result.trained.left_out),
            **(_pictures(result.trained) if here else {}),
            **({"search pictures": result.tuned.folder / "figures"} if here else {}),
            "compare trials": result.tuned.compare_url,
            "models side by side": result.trained.pictures_url,
            "run": result.trained.url,
            "registry": result.promotion.url,
            "use it": f"aemodels generate {result.promotion.name}@champion -n 64 -o grid.png",
        }
    )
    _how_to_open(result.trained.url)


def prepared(data: PreparedData, json: bool) -> None:
    if json:
        return as_json(data.model_dump(mode="json") | {"notes": data.notes()})
    facts(
        {
            "data": data.name,
            "images": ", ".join(f"{size} {split}" for split, size in data.sizes.items()),
            "shape": data.image_shape,
            "classes": ", ".join(data.classes) or "no labels",
            "digest": data.digest,
            "folder": data.path,
            **({"as understood": data.notes()} if data.notes() else {}),
        }
    )


def tuned(result: Tuned, json: bool) -> None:
    if json:
        return as_json(result.model_dump(mode="json"))
    from aemodels.config import as_written

    _trials(result)
    facts(
        {
            **({"note": result.note} if result.note else {}),
            **{f"trial {row.index} failed": row.error for row in result.trials if row.error},
            "best": " ".join(shlex.quote(f"{key}={as_written(value)}") for key, value in result.best.items()),
            **_left_out(result.left_out),
            "pictures": result.folder / "figures",
            "compare trials": result.compare_url,
            "run": result.url,
        }
    )
    _how_to_open(result.url)


def trained(result: Trained, json: bool) -> None:
    if json:
        return as_json(_trained(result))
    _metrics(f"{result.version.name} version {result.version.version}, on the test images", result)
    facts(
        {
            "trained in": f"{result.seconds:.1f} s, {result.images_per_second:,.0f} images/s",
            **_advice(result),
            **_left_out(result.left_out),
            **_pictures(result),
            "models side by side": result.pictures_url,
            "run": result.url,
            "use it": f"aemodels generate {result.version.name}/{result.version.version} -n 64 -o grid.png",
        }
    )
    _how_to_open(result.url)


def evaluated(result: Evaluated, json: bool) -> None:
    if json:
        numbers = {**result.metrics, **result.errors}
        return as_json({**result.model_dump(mode="json", exclude={"metrics", "errors"}), **numbers})
    _metrics(f"{result.model}, on the test images", result)
    pictures = result.figures[0].parent if result.figures else None
    facts(
        {
            **_advice(result),
            **_left_out(result.left_out),
            "pictures": pictures,
            "report": result.report,
            "run": result.url,
        }
    )


def compared(result: Compared, json: bool) -> None:
    if json:
        return as_json(result.model_dump(mode="json"))
    from aemodels.reports.table import left_out, legend

    hidden = set(result.table.metrics[1:]) - set(shown_in("comparisons"))  # the first one defines better
    shown = [
        (f"{name}{arrow}", unit, *("–" if score is None else score.text for score in scores))
        for name, unit, scores, arrow in result.table.lines()
        if name not in hidden
    ]
    table("On the test images", ("metric", "unit", *(row.system for row in result.table.rows)), shown)
    for words in (legend(result.table), *left_out(result.table)):
        sentence(words)
    facts(
        {
            **_left_out(result.left_out),
            "all metrics": result.folder / "table.md",
            "picture": result.picture,
            **({"rate and distortion": result.curve} if result.curve else {}),
            "report": result.report,
            "report of each system": result.folder / "systems",
            "systems side by side": result.compare_url,
            "run": result.url,
        }
    )
    _how_to_open(result.url)


def settings(rows: Sequence[Setting], json: bool) -> None:
    if json:
        return as_json([row._asdict() for row in rows])
    for title, lines in sections(rows).items():
        shown = [
            (
                line.key,
                line.of,
                line.type,
                _shown(line.default),
                " ".join(line.description.split()),
            )
            for line in lines
        ]
        table(title, ("key", "variants", "type", "default", "what it does"), shown)
    return None


def models(rows: Sequence[Registered], json: bool) -> None:
    if json:
        return as_json([_registered(row) for row in rows])
    if not rows:
        sentence("no model is registered yet; `aemodels pipeline` or `aemodels train` registers one")
        return None
    key = shown_in("lists")
    metrics = key if wide() else key[:1]
    shown = [
        (
            f"{row.version.name}/{row.version.version}",
            ", ".join(row.aliases),
            *(row.metrics.get(metric) for metric in metrics),
            row.created,
            row.tags.get("gate.decision", ""),
        )
        for row in rows
    ]
    columns = ("model", "aliases", *metrics, "created", "gate")
    table("Registered models", columns, shown)
    return None


def champion(row: Registered, json: bool) -> None:
    if json:
        return as_json(_registered(row))
    sentence(f"{row.version.name} version {row.version.version} is the champion now")
    return None


def history(name: str, lines: Sequence[HistoryLine], json: bool) -> None:
    if json:
        return as_json([{**line._asdict(), "since": line.since.isoformat()} for line in lines])
    if not lines:
        sentence(f"{name} has had no champion yet; `aemodels promote {name} VERSION` chooses one")
        return None
    shown = [
        (f"{name}/{line.version}", line.since, line.decision, line.by, line.replaced or "", line.reason)
        for line in lines
    ]
    table("Decisions, the latest last", ("model", "when", "decision", "by", "replaced", "why"), shown)
    return None


def monitored(result: Monitored, json: bool) -> None:
    if json:
        return as_json(result.model_dump(mode="json", exclude={"retraining"}))
    reasons = result.reasons or ("the new images are like the test images",)
    rows = [("ALARM" if result.drift else "no alarm", reason) for reason in reasons]
    table(f"{result.images} images, checked by {result.model}/{result.version}", ("outcome", "why"), rows)
    pictures = result.figures[0].parent if result.figures else None
    told = [*filter(None, [result.unused]), *result.notes]
    files = {"files": told} if told else {}
    facts({**files, **_left_out(result.left_out), "pictures": pictures, "run": result.url})
    return None


def used(result: dict[str, object], json: bool) -> None:
    as_json(result) if json else facts(result)


def scores(rows: Sequence[dict[str, object]], json: bool) -> None:
    if json:
        return as_json(rows)
    shown = [tuple(row.values()) for row in rows]
    table("Reconstruction error on pixels in [0, 1], largest first", tuple(rows[0]), shown)
    return None


def _trained(result: Trained) -> dict[str, Any]:
    """Returns one flat object, in which the test metrics stand under their tracked names."""
    return {
        "run_id": result.run_id,
        "model": result.version.name,
        "version": result.version.version,
        **result.metrics,
        **result.errors,
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "folder": result.folder,
        "figures": result.figures,
        "left_out": result.left_out,
        "advice": result.advice,
        "report": result.report,
        "url": result.url,
        "pictures_url": result.pictures_url,
    }


def _registered(row: Registered) -> dict[str, Any]:
    name, version, run_id = row.version
    own = {
        "name": name,
        "version": version,
        "run_id": run_id,
        "aliases": row.aliases,
        "created": row.created.isoformat(),
    }
    return {**own, **{f"test/{metric}": value for metric, value in row.metrics.items()}}


def _trials(result: Tuned) -> None:
    keys = list(result.best)
    columns = ("trial", *keys, *result.objectives, "state", "seconds")
    shown = [
        (
            row.index,
            *(_shown(row.params[key]) for key in keys),
            *(row.values.get(name) for name in result.objectives),
            row.state,
            row.seconds,
        )
        for row in result.trials[:SHOWN_TRIALS]
    ]
    table("Trials, best first, on the validation images", columns, shown)


def _shown(value: Any) -> object:
    """Returns a setting as it stands in a table, which aligns numbers."""
    from aemodels.config import in_short

    return value if isinstance(value, int | float) and not isinstance(value, bool) else in_short(value)


def _metrics(title: str, result: Trained | Evaluated) -> None:
    from aemodels.evaluation.metrics import METRICS

    rows = [
        (name, with_error(value, result.errors.get(f"{name}_error")), METRICS[name.removeprefix("test/")].unit)
        for name, value in result.metrics.items()
    ]
    table(title, ("metric", "value", "unit"), rows)


def _left_out(reasons: dict[str, str]) -> dict[str, object]:
    """Returns lines about the metrics and figures that could not be made; those of one reason share a line."""
    same: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        same.setdefault(reason, []).append(name)
    return {"left out": [f"{', '.join(names)}: {reason}" for reason, names in same.items()]} if same else {}


def _advice(result: Trained | Evaluated) -> dict[str, object]:
    """Returns what is wrong with the model and what helps, with a line for each; nothing for a good one."""
    return {"advice": list(result.advice)} if result.advice else {}


def _pictures(result: Trained) -> dict[str, object]:
    return {"pictures": list(result.figures), "report": result.report}


def _how_to_open(url: str) -> None:
    served = os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
    if url.startswith("http://127.0.0.1") and not served:
        sentence("`aemodels ui` (or `make ui`) serves these links on this machine.")
