"""Tests that the report is one file, says all that was measured, and stays whole whatever the names are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import KEPT, started
from typer.testing import CliRunner

from aemodels.data import PreparedData
from aemodels.evaluation.metrics import METRICS
from aemodels.experiment import Experiment
from aemodels.reports.figures.model import FIGURES
from aemodels.reports.page import BETTER, FIRST, KEY_NUMBERS, Subject, metric_rows, setting_rows, write_report

NUMBERS = {name: 0.12345 + i for i, name in enumerate(METRICS)}
PICTURES = {name: np.full((40, 60 + i, 3), i, np.uint8) for i, name in enumerate(FIGURES)}
HOSTILE = ("<script>alert(1)</script>", '"><img src=http://x onerror=alert(1)>', "{{ 7 * 7 }}", "&lt;b&gt;")


class Page(HTMLParser):
    """Holds what a browser would see: tags with their attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(data: PreparedData, model: str = "digits/3", changes: Mapping[str, Any] | None = None) -> Page:
    subject = Subject(model, "trained", "run0", Experiment().override(changes or {}), data)
    return Page(write_report(subject, NUMBERS, PICTURES))


def test_it_says_how_many_images_the_model_saw(digits: PreparedData) -> None:
    subject = Subject("digits/3", "trained", "run0", Experiment(), digits, images=300)
    assert f"300 of {digits.sizes['train']:,} for training" in write_report(subject, NUMBERS, PICTURES)


def test_advice_stands_on_the_first_screen(digits: PreparedData) -> None:
    subject = Subject("digits/3", "trained", "run0", Experiment(), digits)
    told = Page(write_report(subject, NUMBERS, PICTURES, advice=("Train on, with <5> more.", "Give more images.")))
    assert "Train on, with <5> more. Give more images." in told.text.partition("Contents")[0]
    assert "advice" not in [attributes.get("class") for _, attributes in Page(write_report(subject, NUMBERS, {})).tags]


@pytest.fixture(scope="module")
def plain(digits: PreparedData) -> Page:
    return page(digits)


def test_it_loads_nothing_and_runs_nothing(plain: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in plain.tags}
    for tag, attributes in plain.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action"):
            if (address := attributes.get(name)) is not None:
                assert address.startswith("data:image/png;base64," if tag == "img" else "#")
    assert "url(" not in plain.text
    assert "@import" not in plain.text
    policy = next(meta["content"] for meta in plain.all("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_it_has_every_metric_with_unit_direction_and_how(plain: Page) -> None:
    rows = metric_rows(NUMBERS, "mse")
    assert len(rows) == len(METRICS)
    assert [row.primary for row in rows] == [True] + [False] * (len(rows) - 1)
    assert rows[0].how == METRICS["mse"].how
    assert [row.how for row in rows[1:]] == [metric.how for name, metric in METRICS.items() if name != "mse"]
    for i, metric in enumerate(METRICS.values()):
        assert f"{0.12345 + i:.4g} {metric.unit} {BETTER[metric.ranking]}" in plain.text
        assert f"{metric.what[1:]} " in plain.text
        assert metric.how in plain.text


def test_its_first_screen_has_five_numbers_and_two_pictures(plain: Page, digits: PreparedData) -> None:
    values = [dict(attributes) for tag, attributes in plain.tags if tag == "dl"]
    assert values[0]["class"] == "numbers"
    order = [tag for tag, attributes in plain.tags if tag in ("dl", "img", "nav", "table")]
    assert order[:4] == ["dl", "img", "img", "nav"]
    shown = plain.text.partition("Contents")[0].partition("numbers per code.")[2]
    assert shown.startswith(f" At a glance Frechet samples {NUMBERS['frechet_samples']:.4g}")
    words = ("Share of linear code", "MSE", "Negative ELBO", "Coverage")
    assert sum(f" {word} " in f" {shown} " for word in words) == KEY_NUMBERS - 1
    assert f"linear code of the same size {NUMBERS['linear_code_mse']:.4g}" in shown
    assert f"linear code of the same size {NUMBERS['frechet_linear_code']:.4g}" in shown
    few = Page(write_report(Subject("x", "evaluated", "", Experiment(), digits), {"mse": 0.5}, {}))
    assert "MSE 0.5 " in few.text
    assert "Run" not in few.text.split()


def test_a_narrow_screen_shows_all_of_the_first_numbers() -> None:
    template = files("aemodels.reports") / "templates" / "report.html"
    hidden = [rule for rule in template.read_text().split("}") if "display: none" in rule]
    assert hidden
    assert not [rule for rule in hidden if ".numbers" in rule]


def test_numbers_that_are_not_finite_or_missing(digits: PreparedData) -> None:
    subject = Subject("digits/3", "trained", "run0", Experiment(), digits)
    told = Page(write_report(subject, {"mse": float("nan"), "psnr": float("inf")}, {}))
    assert "MSE nan squared pixels" in told.text
    assert "PSNR inf dB" in told.text
    assert "The search and the gate go by" not in told.text


def test_it_has_every_figure_with_heading_caption_and_words_for_who_cannot_see_it(plain: Page) -> None:
    images = plain.all("img")
    order = sorted(FIGURES, key=lambda name: name not in FIRST)  # those of the first screen come first
    assert [image["alt"] for image in images] == [f"{FIGURES[name].heading} of digits/3" for name in order]
    assert [image["width"] for image in images] == [str(60 + list(FIGURES).index(name)) for name in order]
    links = {attributes["href"] for attributes in plain.all("a")}
    for name, kind in FIGURES.items():
        assert f"{kind.heading} {kind.caption}" in plain.text
        assert (f"#{name}" in links) == (name not in FIRST)
    assert {f"#{attributes['id']}" for _, attributes in plain.tags if "id" in attributes} >= links
    levels = [int(tag[1]) for tag, _ in plain.tags if re.fullmatch(r"h\d", tag)]
    assert levels == [1, 2, 3, 3, 2] + [3] * (len(FIGURES) - 2) + [2, 2, 2]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_text(text: str, plain: Page, digits: PreparedData) -> None:
    named = digits.model_copy(update={"classes": (*HOSTILE, text), "name": text})
    hostile = page(named, model=text)
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert f"{text} A model of {text}, trained" in hostile.text
    assert ", ".join(HOSTILE) in hostile.text
    assert hostile.all("img")[0]["alt"] == f"Reconstructions of {text}"


def test_settings_that_differ_from_the_defaults() -> None:
    def changed(**changes: Any) -> dict[str, str]:
        return {row.key: row.value for row in setting_rows(Experiment().override(changes)) if row.changed}

    assert changed() == {}
    assert changed(model="ae") == {"model.name": "ae"}
    conv = {"model": {"name": "ae", "trunk": {"name": "conv"}, "latent_dim": 3}, "training": {"epochs": 7}}
    assert changed(**conv) == {
        "model.name": "ae",
        "model.trunk.name": "conv",
        "model.latent_dim": "3",
        "training.epochs": "7",
    }
    folder = {"name": "folder", "path": ["/a"], "image_size": 8}
    assert {"data.name", "data.path", "data.image_size"} == changed(data=folder).keys()
    rows = list(setting_rows(Experiment()))
    assert [row.key for row in rows] == list(Experiment().flat())
    assert all(row.description for row in rows)


# ---------------------------------------------------------------- in a browser

UNBROKEN = "n" * 60  # no place to break the line


KINDS = {  # settings, and figures that others lack
    "vae": (["model.name=vae"], ["Rate per unit", "Manifold"]),
    "cvae": (
        [
            "model.name=cvae",
            "model.conditional_prior=true",
            "training.corruption=gaussian",
            "evaluation.denoising=true",
        ],
        ["By class", "More like these", "Denoising"],
    ),
}


@pytest.fixture(params=KINDS)
def trained(request, store, digits: PreparedData) -> tuple[str, Path]:  # noqa: ARG001  where it trains, and on what
    from flows.cli.main import app

    kind: str = request.param
    small = ["model.latent_dim=2", "model.trunk=mlp", "model.trunk.widths=[64]"]
    settings = [*KINDS[kind][0], *small, "training.epochs=5", "evaluation.level=full", f"registry.name={UNBROKEN}"]
    answer = CliRunner().invoke(app, ["train", "--json", *settings])
    assert answer.exit_code == 0, answer.stderr
    return kind, Path(json.loads(answer.stdout)["report"])


@pytest.mark.browser
def test_it_is_read_at_a_desk_and_on_a_phone(trained: tuple[str, Path]) -> None:
    kind, report = trained
    with started() as browser:
        for width in (1280, 375):
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
                shown = context.new_page()
                asked: list[str] = []
                problems: list[str] = []
                shown.on("request", lambda request, asked=asked: asked.append(request.url.partition(":")[0]))
                shown.on("console", lambda message, problems=problems: problems.append(message.text))
                shown.goto(report.as_uri())
                widths = "Array.from(document.images, image => image.naturalWidth)"
                assert all(natural > 300 for natural in shown.evaluate(widths))
                assert _fits(shown)
                assert all(shown.get_by_alt_text(figure).is_visible() for figure in KINDS[kind][1])
                shown.screenshot(path=KEPT / f"report-{kind}-{width}-{scheme}.png", full_page=True)
                shown.locator(".card > summary").click()
                assert shown.locator("details table").is_visible()
                assert not shown.get_by_text("What search and gate go by").is_visible()
                shown.locator(".primary summary").click()
                assert shown.get_by_text("What search and gate go by").is_visible()
                assert _fits(shown)
                _enlarge(shown, narrow=width < 1000)
                assert _fits(shown)
                assert set(asked) <= {"file", "data"}
                assert problems == []
                context.close()


def _fits(shown: Any) -> bool:
    """Checks that nothing has to be scrolled sideways."""
    return bool(shown.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def _enlarge(shown: Any, narrow: bool) -> None:
    """Taps on a picture, which then shows as large as it was drawn; a second tap makes it small again."""
    picture = shown.get_by_alt_text("Training of")
    small, natural = picture.bounding_box()["width"], picture.evaluate("image => image.naturalWidth")
    assert small < natural
    picture.click()
    assert picture.bounding_box()["width"] == (natural if narrow else small)
    picture.click()
    assert picture.bounding_box()["width"] == small
