"""Tests the registry: versions are registered once and whole, and found by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from versions import YES, aliases, registered

from aemodels.config import UserError
from aemodels.tracking.catalog import SHOWN, find, find_registered, find_report, list_models, pinned
from aemodels.tracking.references import is_folder
from aemodels.tracking.registry import conclude, register
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store

# ---- registering


def test_a_version_carries_its_metrics(store: Store, model_folder: Path) -> None:
    version = registered(store, model_folder, {"mse": 0.02, "frechet_samples": 105.123456789})
    (row,) = list_models(store)
    assert row.version == version == ("tiny", 1, version.run_id)
    assert row.aliases == ("challenger",)
    assert row.metrics == {"mse": 0.02, "frechet_samples": 105.12346}
    assert (row.digest, row.tags["seed"]) == ("d" * 32, "0")
    logged = store.client.get_logged_model(row.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in logged.metrics}["test/mse"] == 0.02
    assert len(store.client.get_metric_history(version.run_id, "test/mse")) == 1  # no second point in the chart


def test_the_registry_page_shows_few_tags_and_a_line_with_a_picture(store: Store, model_folder: Path) -> None:
    metrics = {f"metric{i}": i / 3 for i in range(SHOWN + 3)} | {"nll": float("nan")}
    run = start_run(store, "tiny", "vae 8")
    register(run, model_folder, "tiny", metrics, "d" * 32, headline="vae 8: metric0 0")
    (row,) = list_models(store)
    assert row.metrics == pytest.approx(metrics, nan_ok=True)
    shown = [f"test/metric{i}" for i in range(SHOWN)]
    assert set(row.tags) == {*shown, "test", "data.digest", "model.sha256"}
    version = store.client.get_model_version("tiny", "1")
    assert version.description == f"vae 8: metric0 0\n\n{run.overview}"
    assert "viewStateShareKey" in store.client.get_registered_model("tiny").description


def test_versions_of_an_older_release_have_a_tag_for_each_metric(store: Store, model_folder: Path) -> None:
    version = registered(store, model_folder, {"mse": 0.02})
    for i in range(9):
        store.client.set_model_version_tag("tiny", str(version.version), f"test/metric{i}", str(i))
    (row,) = list_models(store)
    assert row.metrics == {"mse": 0.02} | {f"metric{i}": i for i in range(9)}


def test_a_run_is_registered_once(store: Store, model_folder: Path) -> None:
    run = start_run(store, "tiny", "one")
    first = register(run, model_folder, "tiny", {"mse": 0.02}, "d" * 32)
    store.client.delete_registered_model_alias("tiny", "challenger")  # as if killed before it was set
    assert register(run, model_folder, "tiny", {"mse": 0.02}, "d" * 32) == first
    assert aliases(store) == {"challenger": 1}


STEPS = [
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("first", [True, False])
def test_what_fails_leaves_nothing(
    step: str, first: bool, store: Store, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not first:
        registered(store, model_folder)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    before = (list_models(store), models(store), logged_models(store))
    with monkeypatch.context() as patch:
        patch.setattr(store.client, step, fail)
        with pytest.raises(KeyboardInterrupt):
            registered(store, model_folder, {"mse": 0.01})
    assert (list_models(store), models(store), logged_models(store)) == before
    version = registered(store, model_folder).version
    assert aliases(store) == {"challenger": version}


def models(store: Store) -> list[str]:
    return [model.name for model in store.client.search_registered_models()]


def logged_models(store: Store) -> list[str]:
    return [model.model_id for model in store.client.search_logged_models([store.experiment("tiny")])]


def test_a_folder_without_a_model_is_not_registered(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"model\.sha256"):
        registered(store, tmp_path)
    assert models(store) == []


@pytest.mark.parametrize("name", ["../up", "a/b", "a@b", "", "a'b", "-x"])
def test_names_with_tricks_are_refused(name: str, store: Store, model_folder: Path) -> None:
    with pytest.raises(UserError, match=r"registry\.name="):
        register(start_run(store, "tiny", "one"), model_folder, name, {}, "d" * 32)


# ---- finding


def test_models_are_found_by_alias_number_and_folder(store: Store, model_folder: Path) -> None:
    version = registered(store, model_folder)
    conclude(store, version, YES)
    for reference in ("tiny@champion", "tiny/1", str(model_folder)):
        folder = find(reference)
        for file in ("config.json", "weights.safetensors"):
            assert (folder / file).read_bytes() == (model_folder / file).read_bytes()


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("tinny@champion", r"tinny: no such registered model; did you mean tiny\?"),
        ("tiny@champion", r"tiny@champion: not registered; there is tiny/1, tiny@challenger"),
        ("tiny/7", r"tiny/7: not registered; there is tiny/1, tiny@challenger"),
        ("tiny", r"tiny: the version is missing; give tiny@champion or tiny/1"),
        ("tiny@", "tiny@: no such registered model"),
        ("some/where/run", "some/where/run: neither a finished run's folder, with config.json"),
        (".", r"\.: no such registered model; .*; the folder \. is not a finished run's, with config.json"),
        ("a'b@champion", "a'b: no such registered model"),
    ],
)
def test_what_is_not_found_is_explained(reference: str, says: str, store: Store, model_folder: Path) -> None:
    registered(store, model_folder)
    with pytest.raises(UserError, match=says):
        find(reference)


@pytest.fixture
def class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Works in a folder with folders of images that are called like references: tiny, tiny/1 and tiny@champion."""
    for name in ("tiny/1", "tiny/9", "tiny@champion", "photos"):
        (tmp_path / "here" / name).mkdir(parents=True)
        (tmp_path / "here" / name / "config.json").write_text("{}")  # alone it makes no run
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.usefixtures("class_folders")
def test_a_folder_that_holds_no_run_hides_no_model(store: Store, model_folder: Path) -> None:
    conclude(store, registered(store, model_folder), YES)
    for reference in ("tiny@champion", "tiny/1", "models:/tiny/1"):
        assert (find(reference) / "weights.safetensors").exists()
        assert not is_folder(reference)
        assert pinned(reference) == "tiny/1"
    with pytest.raises(UserError, match="tiny/1: its run has no report"):
        find_report("tiny/1")
    for reference, says in {"tiny": "the version is missing", "tiny/9": "not registered", "photos": "no such"}.items():
        with pytest.raises(UserError, match=f"{reference}: {says}.*; the folder {reference} is not a finished run's"):
            find(reference)


def test_a_folder_that_holds_a_run_is_taken_but_not_for_an_alias(
    class_folders: Path, store: Store, model_folder: Path
) -> None:
    conclude(store, registered(store, model_folder), YES)
    shutil.copytree(model_folder, class_folders / "tiny" / "1", dirs_exist_ok=True)
    assert find("tiny/1") == Path("tiny/1")
    assert pinned("tiny/1") == str(class_folders / "tiny" / "1")
    assert pinned("tiny@champion") == "tiny/1"
    assert find_registered("tiny/1").is_absolute()
    shutil.copytree(model_folder, class_folders / "tiny" / "2")
    with pytest.raises(UserError, match=r"^tiny/2: not registered; there is tiny/1, tiny@champion$"):
        find_registered("tiny/2")


def test_an_empty_registry_says_how_to_fill_it(store: Store) -> None:
    assert list_models(store) == []
    with pytest.raises(UserError, match="none is; `aemodels train` registers one"):
        find("digits@champion", store)


def test_lost_files_are_named(store: Store, model_folder: Path) -> None:
    registered(store, model_folder)
    (find("tiny/1", store) / "weights.safetensors").unlink()
    assert find("tiny/1", store).exists()  # what is missing in it is load_model's to say
    artifacts = find("tiny/1", store)
    shutil.rmtree(artifacts)
    with pytest.raises(UserError, match="tiny/1: its files cannot be read"):
        find("tiny/1", store)
