"""Tests what a comparison accepts: presets, files, changes of all systems; and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from systems import comparison

from aemodels.config import SettingsError
from aemodels.settings import ComparisonConfig, comparisons, load_comparison, merged, presets


def test_the_article_has_all_of_its_systems() -> None:
    article = load_comparison([], {}, ["article"])
    names = "mlp-ae conv-ae vae vae-conv cvae gan vae-gan denoising-ae"
    assert list(article.settings) == names.split()
    assert {settings.training.epochs for settings in article.settings.values()} == {10}
    assert {settings.data.name for settings in article.settings.values()} == {"mnist"}
    assert article.settings["conv-ae"].training.weight_decay > 0  # of its preset
    assert article.settings["denoising-ae"].training.corruption.name == "gaussian"
    assert not presets().keys() & comparisons().keys()
    again = ComparisonConfig.model_validate_json(article.model_dump_json())
    assert again.settings == article.settings


@pytest.mark.parametrize("name", comparisons())
def test_every_comparison_can_be_made(name: str) -> None:
    assert len(load_comparison([], {}, [name]).settings) > 1


def test_depth_differs_in_what_is_compared_alone() -> None:
    """One deep network is trained plainly and with each remedy.

    The epochs of all layers together are equal in number.
    """
    systems = load_comparison([], {}, ["depth"]).settings
    deep, pretrained, normalized = (systems[name].flat() for name in ("deep", "deep-pre-trained", "deep-batch-norm"))
    assert {key for key in deep if deep[key] != pretrained[key]} == {"training.pretraining_epochs"}
    assert {key for key in deep if deep[key] != normalized[key]} == {"model.trunk.normalization"}
    assert {settings.training.epochs for settings in systems.values()} == {5}
    assert {settings.model.latent_dim for settings in systems.values()} == {16}


def test_presets_files_and_comparisons_together(tmp_path: Path) -> None:
    file = tmp_path / "wide.json"
    file.write_text(json.dumps({"model": {"name": "vae", "latent_dim": 40}}))
    config = load_comparison([str(file), "digits", "article"], {"data": "digits"}, ["fast"], seeds=3)
    assert len(config.settings) == 10
    assert config.seeds == 3
    assert {settings.data.name for settings in config.settings.values()} == {"digits"}
    assert {settings.training.precision for settings in config.settings.values()} == {"bfloat16"}
    assert config.settings["wide"].model.latent_dim == 40
    assert config.experiment("wide", 2).seed == 2


def test_changes_are_merged_as_settings_are() -> None:
    mnist = {"data": {"name": "mnist", "binarize": "static"}}
    assert merged(mnist, {"data": "digits"}) == {"data": "digits"}
    assert merged(mnist, {"data.name": "mnist", "data.image_size": 32})["data"]["binarize"] == "static"
    assert merged({"data": "mnist"}, {"data.binarize": "static"}) == mnist
    assert merged({"training.epochs": 1}, {"training": {"epochs": 2}, "seed": 1}) == {
        "training": {"epochs": 2},
        "seed": 1,
    }


WRONG = {
    "one system": ({"systems": {"vae": {}}}, "at least two systems, here is vae"),
    "none": ({"systems": {}}, "here is none"),
    "unknown preset": ({"systems": {"a": "article-vea", "b": {}}}, "system a: --preset article-vea: .*article-vae"),
    "unknown setting": ({"systems": {"a": {"model.betta": 2}, "b": {}}}, "system a: model.betta=2: .*model.beta"),
    "name": ({"systems": {"a/b": {}, "b": {}}}, "'a/b' is no name"),
    "data": (
        {"systems": {"a": {"data": "mnist"}, "b": {}}},
        "data: not the same .*a has name=mnist, b has name=digits",
    ),
    "budget": (
        {"shared": {}, "systems": {"a": {"training.epochs": 3}, "b": {}}},
        "training.epochs: .*a has 3, b has None",
    ),
    "judge": ({"systems": {"a": {"evaluation.seed": 3}, "b": {}}}, "evaluation: not the same .*seed=3"),
    "seed": ({"shared": {"seed": 4}}, "give --seeds"),
    "seeds": ({"seeds": 0}, "seeds=0"),
    "the same": (
        {"shared": {"model.latent_dim": 3}, "systems": {"a": {"model.latent_dim": 2}, "b": {}}},
        "systems a and b: they have the same settings; leave out what is given for all",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_compared_is_refused(case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(SettingsError, match=message):
        comparison(**changes)


def test_two_systems_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="digits: two systems have this name"):
        load_comparison(["digits", "digits"], {})
    twice = tmp_path / "twice.json"
    twice.write_text('{"systems": {"a": {}, "a": {}}}')
    with pytest.raises(SettingsError, match="two entries are named 'a'"):
        load_comparison([str(twice)], {})


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="article-vea: unknown; did you mean article-vae"):
        load_comparison(["article-vea", "digits"], {})
    with pytest.raises(SettingsError, match=r"none.json: there is no such file"):
        load_comparison([str(tmp_path / "none.json")], {})
    with pytest.raises(SettingsError, match="--preset artcle: unknown; did you mean article"):
        load_comparison([], {}, ["artcle"])
