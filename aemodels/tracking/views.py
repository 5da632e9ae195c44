"""Writes views of an experiment's runs in MLflow's UI, as "Save as new view" there would.

A view is a tag of the experiment: columns, filter, order and charts as JSON. Its key goes into a link. MLflow's own
choice of charts shows the settings of a run above its picture, where they push it out of the card.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Sequence
from typing import Any

from aemodels.evaluation.key_metrics import shown_in

PICTURES, TABLE = "aemodels-pictures-2", "aemodels-table-2"  # a view that changes gets a new key: people may edit them
TAG = "mlflow.sharedViewState."
FINAL = ("test samples", "test reconstructions")  # image cards; with a slash they would be on the System metrics too
PROGRESS = ("samples", "reconstructions")
CURVES = ("val/negative_elbo", "val/distortion", "val/rate", "train/loss")
PARAMS = ("model.name", "model.latent_dim", "model.beta")


def view_tags() -> dict[str, str]:
    """Returns the tags of an experiment that make its views."""
    charts, sections = _charts()
    pictures = {
        "searchFilter": "tags.kind = 'training'",
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,  # sections stay in this order, and those that MLflow adds come after them
        "hideEmptyCharts": True,
    }
    tests = [f"metrics.`test/{name}`" for name in shown_in("lists")]
    columns = [*(f"params.`{name}`" for name in PARAMS), *tests, "metrics.`objective`"]
    table = {"selectedColumns": columns, "runsHiddenMode": "FIRST_20_RUNS"}
    return {
        TAG + PICTURES: _view("Pictures and curves of the trained models", pictures),
        TAG + TABLE: _view("Table of settings and test metrics", table),
    }


def systems_view(parent: str, name: str, metric: str, direction: str | None) -> tuple[str, str]:
    """Returns the key and the tag of a view of a comparison's systems, which are sorted by a test metric.

    MLflow shows runs in a flat list, not folded below their parent, where they are sorted by a metric.
    """
    charts, sections = _charts()
    systems = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}' and tags.seed = '0'",
        "orderByKey": f"metrics.`test/{metric}`",
        "orderByAsc": direction != "maximize",
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
    }
    return f"aemodels-{parent}", _view(name, systems)


def _view(name: str, state: dict[str, Any]) -> str:
    now = int(time.time() * 1000)
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"})


def _charts() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the cards and the sections that hold them, in order."""
    tests = [f"test/{name}" for name in shown_in("lists")]
    rows = [
        ("Pictures", 1, 620, _pictures(FINAL)),
        ("test", 3, 300, [{"type": "BAR", "metricKey": key} for key in tests]),
        ("Curves", 2, 300, [_curve(key) for key in CURVES]),
        ("Pictures while training", 1, 620, _pictures(PROGRESS)),
    ]
    cards = [_card(card, name, f"{name}-{i}") for name, _, _, own in rows for i, card in enumerate(own)]
    return cards, [_section(name, columns, height) for name, columns, height, _ in rows]


def _pictures(keys: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a table of pictures by runs; MLflow would add a card of its own for each key if it found none."""
    card = {"type": "IMAGE", "step": 0, "showRunParams": False}
    return [card | {"imageKeys": list(keys)}, *(card | {"imageKeys": [key], "deleted": True} for key in keys)]


def _curve(key: str) -> dict[str, Any]:
    own = {"type": "LINE", "metricKey": key, "selectedMetricKeys": [key], "yAxisKey": "metric", "yAxisExpressions": []}
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "range": {}}
    return own | axes | {"lineSmoothness": 0, "selectedXAxisMetricKey": "", "ignoreOutliers": False}


def _card(card: dict[str, Any], section: str, uuid: str) -> dict[str, Any]:
    common = {"uuid": uuid, "metricSectionId": section, "deleted": False, "isGenerated": False}
    return common | {"displayName": card.get("metricKey"), "runsCountToCompare": 10} | card


def _section(name: str, columns: int, height: int) -> dict[str, Any]:
    shape = {"columns": columns, "cardHeight": height}
    return {"uuid": name, "name": name, "display": True, "isReordered": True, "isGenerated": False, **shape}
