"""Tests the views that links into MLflow's UI open."""

from __future__ import annotations

import base64
import json
import zlib
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from aemodels.steps.recording import keep_figures
from aemodels.tracking.run import OVERVIEW, start_run
from aemodels.tracking.store import Store
from aemodels.tracking.views import FINAL, TAG, view_tags


def state_of(tag: str) -> dict:
    return json.loads(zlib.decompress(base64.b64decode(json.loads(tag)["state"].removeprefix("deflate;"))))


@pytest.mark.parametrize("kind", ["new", "older", "edited"])
def test_every_experiment_has_the_views_that_links_name(store: Store, kind: str) -> None:
    """One is new, one had no view yet, and one has a view that a person has changed. That view stays as it is."""
    tags = {"new": None, "older": {}, "edited": dict.fromkeys(view_tags(), "mine")}[kind]
    if tags is not None:
        store.client.create_experiment("tiny", tags=tags)
    number = store.experiment("tiny")
    found = store.client.get_experiment(number).tags
    links = [store.pictures_url(number), store.table_url(number)]
    keys = [TAG + parse_qs(urlsplit(urlsplit(link).fragment).query)["viewStateShareKey"][0] for link in links]
    if kind == "edited":
        assert [found[key] for key in keys] == ["mine", "mine"]
        return
    pictures, table = (state_of(found[key]) for key in keys)
    first = pictures["compareRunCharts"][0]
    assert (first["imageKeys"], first["showRunParams"]) == (list(FINAL), False)
    assert first["metricSectionId"] == pictures["compareRunSections"][0]["uuid"]
    assert {"params.`model.latent_dim`", "metrics.`objective`"} <= set(table["selectedColumns"])
    assert all(len(value) < 5000 for value in found.values())  # MLflow's limit


def test_figures_stand_on_top_of_the_page_of_the_run(store: Store, tmp_path) -> None:
    run = start_run(store, "tiny", "vae 3")
    keep_figures({f"figure{i}": np.zeros((390, 710, 3), np.uint8) for i in range(4)}, tmp_path, run)
    note = store.client.get_run(run.id).data.tags["mlflow.note.content"]
    assert f"(get-artifact?path={OVERVIEW}&run_uuid={run.id})" in note
    assert OVERVIEW in [file.path for file in store.client.list_artifacts(run.id)]
