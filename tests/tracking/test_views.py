"""Tests the views that links into MLflow's UI open."""

from __future__ import annotations

import base64
import json
import zlib
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from aemodels.experiment import Experiment
from aemodels.steps.recording import changed_first, headline, keep_figures
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
    shown = {"params.`model.latent_dim`", "metrics.`objective`", "metrics.`test/share_of_linear_code`"}
    assert shown <= set(table["selectedColumns"])
    assert all(len(value) < 5000 for value in found.values())  # MLflow's limit


def test_figures_stand_on_top_of_the_page_of_the_run(store: Store, tmp_path) -> None:
    run = start_run(store, "tiny", "vae 3")
    pictures = {f"figure{i}": np.zeros((390, 710, 3), np.uint8) for i in range(4)}
    keep_figures(pictures, tmp_path, run, headline({"frechet_samples": 29.681, "mse": 0.0150901}))
    note = store.client.get_run(run.id).data.tags["mlflow.note.content"]
    assert note.startswith("frechet_samples 29.68, mse 0.01509\n\n![figures]")
    assert f"(get-artifact?path={OVERVIEW}&run_uuid={run.id})" in note
    assert OVERVIEW in [file.path for file in store.client.list_artifacts(run.id)]


def test_settings_that_differ_from_the_defaults_come_first_and_all_are_there() -> None:
    experiment = Experiment().override({"training.learning_rate": 0.5, "seed": 3})
    settings = changed_first(experiment)
    assert set(list(settings)[:2]) == {"training.learning_rate", "seed"}
    assert settings == experiment.flat()


def test_the_link_of_a_comparison_opens_its_systems_sorted_by_what_defines_better(store: Store) -> None:
    number = store.experiment("tiny")
    link = store.systems_url(number, "abc", "2 systems on photos", "coverage", "maximize")
    key = parse_qs(urlsplit(urlsplit(link).fragment).query)["viewStateShareKey"][0]
    tag = store.client.get_experiment(number).tags[TAG + key]
    assert json.loads(tag)["name"] == "2 systems on photos"
    state = state_of(tag)
    assert "'abc'" in state["searchFilter"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`test/coverage`", False)
    assert state["compareRunCharts"][0]["imageKeys"] == list(FINAL)
