"""Trainings that start from the weights of a trained model: which ones, what is recorded, and what is refused."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from commands import Answer, call, picture_folder, refused
from tracked import TINY, client, history, runs, versions

from aemodels.checkpoints.checkpoint import load_model
from aemodels.checkpoints.model_files import digest
from aemodels.config import SettingsError
from aemodels.settings import ComparisonConfig, Settings
from aemodels.steps.start import DIGITS, fixed, starting_weights
from aemodels.tracking.catalog import find

QUICK = ["training.epochs=1", "training.images=200"]


@pytest.fixture
def shop(store) -> Path:
    """Returns the folder of a store whose champion digits/1 was trained with a seed of its own."""
    assert call("train", "--json", *TINY, "training.epochs=1", "seed=3", "model.beta=2").json["version"] == 1
    assert call("promote", "digits", "1").code == 0
    return Path(store.uri.removeprefix("sqlite:///")).parent


def start(*changes: object, command: str = "train") -> Answer:
    return call(command, "--json", "start_from=digits@champion", *QUICK, *changes)


def test_an_alias_is_fixed_before_the_run_is_named_and_the_parent_is_linked(shop: Path) -> None:
    told = start("registry.name=finer", "training.learning_rate=1e-30").json
    parent, child = load_model(find("digits/1")), load_model(find("finer/1"))
    for name, tensor in parent.model.named_parameters():
        torch.testing.assert_close(child.model.get_parameter(name), tensor, rtol=0, atol=0)
    named = child.card.experiment.start_from
    assert named is not None
    assert named.startswith("digits/1#")
    assert child.card.experiment.model == parent.card.experiment.model
    run, (version,) = client(shop).get_run(told["run_id"]), client(shop).search_model_versions("name = 'finer'")
    assert run.data.params["start_from"] == run.data.tags["start_from"] == version.tags["start_from"] == named
    source = client(shop).get_model_version("digits", "1").source
    assert [f"models:/{one.model_id}" for one in run.inputs.model_inputs] == [source]
    for text in (run.data.tags["mlflow.note.content"], version.description):
        assert "Started from the weights of [digits/1](#/models/digits/versions/1" in text
        assert "![figures](" in text  # what was there before is there still


@pytest.mark.slow
def test_a_champion_that_moves_changes_nothing_for_a_training_that_began(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fixed means the same weights, also when it is fixed again; the alias alone means the new champion."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    settings = fixed(Settings().override({"start_from": "digits@champion", "training.epochs": 1}))
    with monkeypatch.context() as patch:
        patch.setattr("aemodels.steps.train.register", interrupted)
        assert start("registry.name=finer").code == 130
    assert call("train", "--json", *TINY, "training.epochs=1").code == 0
    assert call("promote", "digits", "2").code == 0
    assert fixed(settings) == settings
    assert fixed(Settings().override({"start_from": "digits@champion"})).start_from != settings.start_from
    (killed,) = [run for run in runs(shop, "training") if run.info.status == "KILLED"]
    again = call("train", "--json", f"start_from={settings.start_from}", *QUICK, "registry.name=finer")
    assert again.json["run_id"] == killed.info.run_id, "the run that was killed goes on"


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
def test_a_version_that_was_fixed_is_not_looked_for_among_the_folders_here(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder digits/1 that holds another model is what a person means who names it, and never the champion."""
    there = shutil.copytree(model_folder, tmp_path / "here" / "digits" / "1")
    weights = find("digits/1")
    monkeypatch.chdir(tmp_path / "here")
    settings = fixed(Settings().override({"start_from": "digits@champion"}))
    assert settings.start_from == f"digits/1#{digest((weights / 'weights.safetensors').read_bytes())[:DIGITS]}"
    assert fixed(settings) == settings
    named = fixed(Settings().override({"start_from": "digits/1"})).start_from
    assert named is not None
    assert named.startswith(f"{there}#")
    told = start("registry.name=finer").json
    assert client(tmp_path / "store").get_run(told["run_id"]).inputs.model_inputs, "it is linked"


@pytest.mark.parametrize(("start_from", "taken"), [("digits/1#8f7822555231", True), ("some/run#8f7822555231", False)])
def test_a_flow_run_takes_a_version_that_was_fixed(
    start_from: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import tasks

    monkeypatch.setattr(tasks, "fix_start", lambda settings: settings)
    settings = Settings().override({"start_from": start_from})
    with nullcontext() if taken else pytest.raises(SettingsError, match="is a relative path"):
        assert tasks.started(settings) == settings


@pytest.mark.usefixtures("shop")
def test_what_does_not_fit_is_refused_in_words(tmp_path: Path) -> None:
    refused(start("model.latent_dim=8"), "model.latent_dim is 2 there and 8 here")
    refused(start("model.trunk=conv"), "model.trunk.name is mlp there and conv here")
    refused(start("model=cvae"), "model.name is vae there and cvae here; give model.name=vae")
    refused(call("train", "start_from=digitz@champion"), "digitz: no such registered model; did you mean digits?")
    refused(call("train", "start_from=digits/7"), "digits/7: not registered; there is digits/1")
    refused(call("train", "start_from=digits/1#aaaaaaaaaaaa"), "the weights of digits/1 are others now")
    refused(call("train", f"start_from={tmp_path}"), "neither a finished run's folder")
    refused(start("training.pretraining_epochs=1"), "training.pretraining_epochs=1: nothing is pre-trained")
    images = picture_folder(tmp_path / "images", 30)
    folder = ("data.name=folder", f"data.path={images}", "registry.name=mine")
    refused(start(*folder), "start_from=digits/1: made for images of shape (1, 28, 28), these have (1, 16, 16)")
    refused(
        start('tuning.space={"model.latent_dim": {"low": 2, "high": 4}}', command="tune"),
        "tuning.space: model.latent_dim cannot vary, as the weights of start_from=digits/1#",
    )
    with pytest.raises(SettingsError, match="system b: start_from=digits/1: a comparison trains every system anew"):
        ComparisonConfig.parse({"systems": {"a": {}, "b": {"start_from": "digits/1"}}})


def test_settings_of_the_loss_may_be_others(shop: Path) -> None:
    settings = fixed(Settings().override({"start_from": "digits/1", "model.beta": 0.5}))
    assert settings.model.flat() | {"beta": 2.0} == load_model(find("digits/1")).card.experiment.model.flat()
    assert start("model.beta=0.5").code == 0
    assert load_model(find("digits@challenger")).model.beta == 0.5
    assert versions(shop) == [1, 2]


@pytest.mark.slow
def test_a_conditional_model_needs_as_many_classes(tmp_path: Path, store) -> None:  # noqa: ARG001  an own one
    for label in "abc":
        picture_folder(tmp_path / "three" / label, 8)
        if label != "c":
            picture_folder(tmp_path / "two" / label, 8)
    common = ["--json", "data.name=folder", *QUICK, "registry.name=mine"]
    assert call("train", *common, f"data.path={tmp_path / 'three'}", "model=cvae", "model.trunk.widths=[16]").code == 0
    answer = call("train", *common, f"data.path={tmp_path / 'two'}", "start_from=mine/1")
    refused(answer, "start_from=mine/1: conditional on 3 classes, these images have 2")
    assert call("train", *common, f"data.path={tmp_path / 'three'}", "start_from=mine/1").code == 0


def test_each_trial_of_a_search_starts_there(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latent size is settled, so that the KL weight alone varies; the pipeline's last training starts there too."""
    import aemodels.tuning.trial as trials

    given: list[object] = []
    real = trials.train

    def spied(*arguments: object, **named: object) -> object:
        given.append(named["start"])
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "train", spied)
    told = start("tuning.trials=2", "tuning.epochs=1", command="tune").json
    assert [*told["best"]] == ["model.beta"]
    weights = load_model(find("digits/1")).model.state_dict()
    for start_of_trial in given:
        assert isinstance(start_of_trial, dict)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in start_of_trial.items())
    assert len(given) == 2
    (search,) = runs(shop, "search")
    assert search.data.params["start_from"].startswith("digits/1#")


@pytest.mark.slow
def test_more_epochs_go_on_where_the_same_command_ended(shop: Path) -> None:
    command = ["train", "--json", *TINY, "seed=3", "model.beta=2"]
    told = call(*command, "training.epochs=3").json
    assert client(shop).get_run(told["run_id"]).data.tags["went_on_after_epoch"] == "1"
    assert [step for step, _ in history(shop, told["run_id"])["train/loss"]] == [1, 2, 3]


@pytest.mark.usefixtures("shop")
def test_the_weights_have_no_settings_of_the_loss(digits) -> None:
    weights = starting_weights(fixed(Settings().override({"start_from": "digits/1"})), digits)
    assert weights is not None
    assert "beta" not in weights
    assert "posterior.unit_mask" in weights
    assert starting_weights(Settings(), digits) is None
