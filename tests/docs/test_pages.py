"""Tests what the pages tell people to type: Python runs, and commands and their settings exist."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imports
import pytest
from commands import call, picture_folder
from documents import PAGES, blocks, named, spans
from places import ROOT
from typer.main import get_command
from untrained import finished_folder

from aemodels.config import SettingsError
from aemodels.models import AnyModelConfig
from aemodels.settings import ComparisonConfig, Settings, load_comparison, load_settings, merged, read_changes
from aemodels.tracking.gate import Decision
from aemodels.tracking.registry import conclude, register
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store
from benchmarks.__main__ import _options
from flows.cli.main import app
from flows.cli.session import model_first, read_evaluation_settings
from flows.cli.settings_table import list_settings

SHELL = ("sh", "bash", "console")
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OTHERS = {"cp", "chmod", "set", ".", "docker", "curl"}  # programs of the system
STAND_INS = {
    "NAME": ["digits"],
    "VERSION": ["1"],
    "CONFIG...": ["article-vae", "conv-vae"],
}  # for what a reader chooses
SECTION = re.compile(r"(data|model|training|evaluation|tuning|registry)(\.[a-z_]+)+")


# ---------------------------------------------------------------- Python


def as_module(page: Path, place: Path) -> Path:
    """Writes all Python of a page as one file, since later blocks may use what earlier ones made."""
    file = place / f"{page.stem.replace('-', '_')}_page.py"
    file.write_text("\n".join(block.text for block in blocks(page, "python")))
    return file


def test_every_page_with_python_is_run() -> None:
    assert {page.name for page in PAGES if blocks(page, "python")} == {"README.md", "python.md", "add-your-own.md"}


@pytest.mark.slow
def test_python_of_a_promoted_model_runs(digits: Any, store: Store, tmp_path: Path) -> None:
    """It runs in a process of its own, since MLflow keeps what it loads."""
    folder = finished_folder(tmp_path / "model", digits.image_shape)
    with start_run(store, "digits", "one") as run:
        version = register(run, folder, "digits", {"mse": 0.1}, "d" * 32)
    conclude(store, version, Decision(True, "the first", {}))
    file = as_module(ROOT / "docs" / "python.md", tmp_path)
    shapes = (
        "assert images.shape == again.shape == (16, 1, 28, 28) and codes.shape == (16, 3) and errors.shape == (16,)"
    )
    file.write_text(f"{file.read_text()}\n{shapes}\nassert drawn.shape == (16, 1, 28, 28)\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, file], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "digits 1 ('champion',)" in done.stdout


@pytest.mark.slow
def test_python_of_the_readme_runs_in_an_empty_folder(tmp_path: Path) -> None:
    file = as_module(ROOT / "README.md", tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    file.write_text(f"{file.read_text()}\nassert new.shape == (64, 8, 8) and codes.shape == (1797, 8)\n")
    for _ in range(2):
        done = subprocess.run([sys.executable, file], cwd=here, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in here.iterdir()] == ["digits-vae"]


def test_python_of_new_things_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model, prior, source and metric of the page do what those of the project do."""
    file = as_module(ROOT / "docs" / "add-your-own.md", tmp_path)
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, file.stem, module)
    specification.loader.exec_module(module)

    import torch

    from aemodels.nn.batch import Batch

    losses = module.model.losses(Batch(torch.rand(2, 1, 28, 28), None), torch.tensor(0))
    losses["autoencoder"].total.mean().backward()
    assert all(parameter.grad is not None for parameter in module.model.part_parameters("autoencoder"))
    assert list(module.PowerConfig().search_space()) == ["model.latent_dim", "model.beta"]
    assert module.images.load(0).shape == (1, 16, 16)
    assert torch.isfinite(module.prior().log_prob(torch.zeros(3)))


# ---------------------------------------------------------------- commands


def commands(page: Path) -> Iterator[list[str]]:
    """Yields the words of every command in a shell block, and of our commands in the text and in plain blocks."""
    for block in blocks(page, *SHELL):
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield from each(words)
    plain = [line.strip() for block in blocks(page, "") for line in block.text.splitlines()]
    for text in [*spans(page), *plain]:
        if re.match(r"([A-Z_]+=\S+ )*(\.venv/bin/)?aemodels [a-z]|make [a-z]|python -m benchmarks", text):
            yield from each(shlex.split(text, comments=True))


def each(words: list[str]) -> Iterator[list[str]]:
    """Yields a line's commands, without the variables before them."""
    command: list[str] = []
    for word in [*words, ";"]:
        if word in (";", "&&", "&") or word.endswith(";"):
            if command:
                yield [*command, *filter(None, [word.removesuffix(";").replace("&", "")])]
            command = []
        elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
            command.append(word)


def is_there(words: list[str]) -> None:
    """Fails where a command, an option, a setting, a target or a script does not exist."""
    first, *rest = words
    if first == "torchrun":
        return is_there(rest[rest.index("--no-python") + 1 :])
    if first.removeprefix(".venv/bin/") == "aemodels":
        return ours(rest)
    if first == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS, words
    elif first.endswith("python") or first == "python":
        if rest[:2] == ["-m", "benchmarks"]:
            assert isinstance(_options(rest[2:]), argparse.Namespace)
        else:
            name = rest[1].replace(".", "/") if rest[0] == "-m" else rest[0]
            ways = (name, f"{name}.py", f"{name}/__main__.py")
            assert rest[:2] == ["-m", "pytest"] or any((ROOT / way).is_file() for way in ways), words
    elif first.startswith("ops/"):
        assert (ROOT / first).exists(), words
    else:
        assert first in OTHERS, f"{' '.join(words)}: neither ours nor known"
    return None


def ours(words: list[str]) -> None:
    """Checks one of our commands with its options and settings."""
    words = [part for word in words if not word.startswith("[") for part in STAND_INS.get(word, [word])]
    group: Any = get_command(app)
    context = group.make_context("aemodels", list(words), resilient_parsing=True)
    if words[0].startswith("-"):
        return
    name, command, rest = group.resolve_command(context, words)
    assert command, f"{words[0]}: no such command"
    if not rest or rest == ["--help"]:  # named in a sentence
        return
    given = command.make_context(name, list(rest), parent=context).params
    preset, config = given.get("preset"), given.get("config")
    if name == "settings":
        assert any(row.key.startswith(given["prefix"]) for row in list_settings(Settings)), words
    elif name == "compare":
        named_, changes = ([w for w in given["arguments"] or [] if ("=" in w) is kind] for kind in (False, True))
        assert load_comparison(named_, read_changes(changes), preset or (), given["seeds"]).settings
    elif name == "evaluate":
        settings = read_evaluation_settings(model_first(given["arguments"] or [])[1], preset, config)
        # as the model of images in folders has it
        own = {"data.name": "folder"} if "path" in settings.get("data", {}) else {}
        assert load_settings(merged(own, settings))
    elif "changes" in given:
        assert load_settings(read_changes(given["changes"] or []), preset, config)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_and_their_settings_are_there(page: Path) -> None:
    for words in commands(page):
        is_there(words)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_recipes_for_own_images_leave_the_networks_to_the_images(page: Path) -> None:
    recipes = [words for words in commands(page) if "data.name=folder" in words]
    assert [words for words in recipes if any(word.startswith("model.trunk") for word in words)] == []


@pytest.mark.parametrize("wrong", ["aemodels fly", "aemodels train data.nam=x", "aemodels train --fast", "make tea"])
def test_a_command_that_is_not_there_is_found(wrong: str) -> None:
    with pytest.raises(Exception, match=r"(?i)fly|nam|fast|tea"):
        is_there(wrong.split())


@pytest.mark.slow
@pytest.mark.flow
@pytest.mark.usefixtures("prefect", "store")
def test_the_readme_is_true_of_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands run as they are written, with less work."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/bright", "photos/dark", "favourites"):
        picture_folder(tmp_path / folder, 20, side=24, channels=3)
    less = ["model.trunk.channels=[4]", "model.trunk.hidden=8", "model.latent_dim=2", "training.epochs=1"]
    less += ["tuning.trials=1", "tuning.epochs=1", "data.image_size=16"]
    (block,) = (block for block in blocks(ROOT / "README.md", "sh") if "data.path=photos" in block.text)
    for line in block.text.splitlines():
        _, *words = shlex.split(line)
        answer = call(*words, *(less if words[0] == "pipeline" else ()))
        assert answer.code == 0, answer
    assert {"new.png", "more.png"} <= {path.name for path in tmp_path.iterdir()}


# ---------------------------------------------------------------- settings


def fits(key: str, value: str) -> bool:
    """Tells whether some source and some model accept a setting."""
    models = AnyModelConfig.__origin__.__args__  # type: ignore[attr-defined]
    starts: list[list[str]] = [[], ["data.name=folder", "data.path=/a"], ["model.trunk=residual"]]
    starts += [[f"model.name={config.model_fields['name'].default}"] for config in models]
    starts += [["training.corruption=gaussian"], ["model.likelihood=gaussian"]]
    for start in starts:
        try:
            load_settings(read_changes([*start, f"{key}={value}"]))
            return True
        except SettingsError:
            continue
    return False


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_in_the_text_are_there(page: Path) -> None:
    keys = {row.key for row in list_settings(Settings)}
    for span in spans(page):
        key, given, value = span.partition("=")
        if not SECTION.fullmatch(key) or key.endswith((".py", ".yaml", ".digest")):
            continue
        assert any(known == key or known.startswith(f"{key}.") for known in keys), f"{span}: no such setting"
        assert not given or "..." in value or fits(key, value), f"{span}: no such value"


def test_a_comparison_on_a_page_can_be_read() -> None:
    found = [block.text for page in PAGES for block in blocks(page, "json")]
    assert found
    for text in found:
        assert len(ComparisonConfig.parse(json.loads(text)).settings) == 2


# ---------------------------------------------------------------- the figure


def test_the_figure_of_imports_shows_every_room_and_no_circle() -> None:
    graph = imports.imports()
    heights = imports.floors(graph)
    assert all(heights[other] < heights[name] for name, others in graph.items() for other in others)
    drawn = imports.figure(graph)
    assert {f">{name}</text>" in drawn for name in graph} == {True}
    rooms = {path.parent.name for path in (ROOT / "aemodels").glob("*/__init__.py")}
    assert rooms - imports.LEFT_OUT <= graph.keys()
    with pytest.raises(ValueError, match="a, b"):
        imports.floors({"a": {"b"}, "b": {"a"}})
