"""Tests settings: what is read back is what was written, and what is wrong is explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aemodels.config import SettingsError, read_text
from aemodels.settings import Settings, is_data_path, load_settings, presets, read_changes, read_file
from flows.cli.settings_table import list_settings


@pytest.mark.parametrize("preset", [None, *presets()])
def test_settings_round_trip(preset: str | None) -> None:
    settings = load_settings({}, preset)
    assert Settings.parse(settings.flat()) == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_later_settings_win_and_another_variant_starts_from_its_defaults() -> None:
    settings = load_settings(read_text(["model.latent_dim=7", "seed=3"]), "article-vae")
    assert (settings.model.latent_dim, settings.seed, settings.data.name) == (7, 3, "mnist")
    other = settings.override(read_text(["model=ae", "model.trunk=conv", "model.trunk.channels=[8, 16]"]))
    assert other.flat()["model.trunk.channels"] == [8, 16]
    assert "model.beta" not in other.flat()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (["data=folder", "data.path=photos"], ["photos"]),
        (['data={"name": "folder", "path": "photos"}'], ["photos"]),
        (["data=folder", 'data.path=["a", "../b"]'], ["a", "../b"]),
        (["data=folder", "data.path=/photos"], ["/photos"]),
        (["data=folder", "data.path=~/photos"], [str(Path.home() / "photos")]),
    ],
)
def test_a_person_may_name_a_folder_from_where_they_are(
    written: list[str], meant: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tuple((tmp_path / path).resolve() for path in meant)
    settings, given = read_changes(written), read_text(written)
    (tmp_path / "mine.json").write_text(json.dumps({"shared": given, "systems": {"x.y": given}}))
    found = read_file(tmp_path / "mine.json", "mine.json")
    monkeypatch.chdir("/")  # as a worker, which is handed the settings
    for one in (settings, found["shared"], found["systems"]["x.y"]):
        assert load_settings(one).data.path == here
    for wrong in ("", "[1]", "[", "null"):
        with pytest.raises(SettingsError, match=r"data\.path"):
            load_settings(read_changes(["data=folder", f"data.path={wrong}"]))


def test_every_setting_that_is_a_path_is_read_from_where_a_person_is() -> None:
    paths = [row.key for row in list_settings(Settings) if row.type.startswith("path")]
    assert paths == ["data.path", "data.val_path", "data.test_path", "data.labels", "data.path", "data.path"]
    assert is_data_path("data.path")
    with pytest.raises(SettingsError, match=r"data\.path=photos: photos is a relative path, .* give the whole path"):
        Settings().override({"data.name": "folder", "data.path": "photos"})  # by type: no flow can be handed one


def test_the_type_of_every_setting_is_what_a_person_can_type() -> None:
    rows = list(list_settings(Settings))
    for word in ("Optional", "Annotated", "Literal", "FieldInfo", "<", ">", "None", "tuple", "typing", "aemodels"):
        assert not [row for row in rows if word in row.type]
    types = {row.key: row.type for row in rows}
    for key, text in {
        "data.image_size": "side or [height, width]",
        "data.labels": "path, or null",
        "data.levels": "whole number, at least 1, at most 65535, or null",
        "training.schedule": "constant | cosine | stages, or null",
        "model.trunk.widths": "list of whole numbers",
        "model.conditional_prior": "true | false",
        "tuning.pareto": "[text, text], or null",
        "tuning.space": '{"key": {low, high, log} | {choices} | null}',
    }.items():
        assert types[key] == text


def test_every_setting_is_described() -> None:
    undescribed = [s.key for s in list_settings(Settings) if not s.description]
    assert not undescribed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.laten_dim=3"], ["model.laten_dim=3", "model.latent_dim"]),
        (["modle.beta=3"], ["modle", "model"]),
        (["model=vea"], ["vea", "did you mean vae"]),
        (["model=ae", "model.beta=1"], ["model.beta=1", "model.name=ae"]),
        (["data.path=hands"], ["data.path=hands: no such setting of data.name=digits; give data.name=folder or "]),
        (["model=ae", "model.beta=1"], ["model.beta=1: no such setting of model.name=ae; give model.name=vae or cvae"]),
        (["model.trunk=mlp", "model.trunk.channels=[8]"], ["give model.trunk.name=conv or residual"]),
        (["data=mnits"], ["mnits", "mnist"]),
        (["model.beta=-1"], ["model.beta=-1: must be at least 0; see `aemodels settings model`"]),
        (["model.beta=nan"], ["model.beta=nan: must be a finite number; see"]),
        (["training.learning_rate=0"], ["training.learning_rate=0: must be more than 0; see"]),
        (["training.epochs=many"], ["training.epochs=many: must be a whole number; see `aemodels settings training`"]),
        (["training.epochs=1.5"], ["training.epochs=1.5: must be a whole number; see"]),
        (["model.beta=much"], ["model.beta=much: must be a number; see"]),
        (["data.val_fraction=1"], ["data.val_fraction=1: must be less than 1; see"]),
        (["training.optimizer=sgd"], ["training.optimizer=sgd: must be 'adam' or 'adamw'; see"]),
        (["evaluation.denoising=perhaps"], ["evaluation.denoising=perhaps: must be true or false; see"]),
        (["seed=-1"], ["seed=-1: must be at least 0"]),
        (
            ["registry.name=a/b"],
            ["null takes the data set's name. A model of one's own images needs a name."],
        ),
        (["model.trunk.widths=[400"], ["model.trunk.widths", "[400, 200]"]),
        (["model.trunk.widths=[]"], ["model.trunk.widths", "at least 1"]),
        (["seed"], ["'seed'", "key=value"]),
        (["seed=1", "model.beta.x=1"], ["model.beta"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_a_remedy(settings: list[str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(read_text(settings))
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_preset_or_file_is_named(tmp_path) -> None:
    with pytest.raises(SettingsError, match="did you mean article-vae"):
        load_settings({}, "artcle-vae")
    with pytest.raises(SettingsError, match="no such file"):
        load_settings({}, config=tmp_path / "none.json")


def test_a_name_is_short_for_a_section_at_any_depth() -> None:
    settings = load_settings(read_text(["model=ae", "model.trunk=conv", "model.likelihood=bernoulli"]))
    assert settings.flat() | {"model.trunk.name": "conv", "model.likelihood.name": "bernoulli"} == settings.flat()
    nested = {"model": {"name": "cvae", "trunk": "residual"}, "training": {"corruption": "masking"}}
    assert load_settings(nested).training.corruption.name == "masking"


def test_a_section_without_a_name_is_of_the_models_own_default() -> None:
    settings = load_settings(read_text(["model=ae", "model.trunk.widths=[64]"]))
    assert settings.model.trunk.model_dump()["widths"] == (64,)
    deep = load_settings(read_text(["model=iwae", "model.trunk.normalization=batch"]))
    assert deep.model.trunk.name == "mlp"
