"""Tests that pictures show names as they are: no formulas, no hidden entries, no boxes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from autoencoders import build

from aemodels.config import Choice
from aemodels.data import PreparedData
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.drift import Scores
from aemodels.evaluation.evaluate import evaluate
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features
from aemodels.models import AEConfig, CVAEConfig, VAEConfig
from aemodels.nn.trunks import MLPConfig
from aemodels.reports import lettering, pictures
from aemodels.reports.figures.comparison import rate_distortion, side_by_side
from aemodels.reports.figures.drift import histograms, worst
from aemodels.reports.figures.model import FIGURES, draw_figures
from aemodels.reports.figures.search import draw_search_figures
from aemodels.reports.lettering import choose_fonts, drawable, told_apart
from aemodels.reports.pictures import Labels, Picture, sheet
from aemodels.texts import visible
from aemodels.tuning.events import SearchResult, Trial

SMALL = MLPConfig(widths=(16,))
NAMES = ("$", "$$", "$5 to $10_max", "_hidden", "_nolegend_", "[red] x", "<b>&amp;", "a\x1b[31m", r"\frac$x$", "a\nb")
CHINESE = "\u732b\u548c\u72d7"
ONLY_SERIF, ONLY_MONO = "\u23b7", "\u2312"  # letters that DejaVu Sans lacks, and another font of matplotlib's has


@pytest.fixture
def drawn_texts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Returns the texts of all figures at the moment when they become pixels; a warning is an error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    texts: list[Any] = []
    draw = FigureCanvasAgg.draw

    def drawing(canvas: Any) -> None:
        draw(canvas)
        texts.extend(text for text in canvas.figure.findobj(Text) if text.get_text())

    monkeypatch.setattr(FigureCanvasAgg, "draw", drawing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield texts


def shown(texts: list[Any]) -> list[str]:
    """Returns the letters that a person sees of the texts; a formula would have letters of its own."""
    return [text.get_text() for text in texts if not (text.get_parse_math() and "$" in text.get_text())]


@pytest.mark.parametrize("config", [AEConfig, VAEConfig, CVAEConfig], ids=lambda config: config.__name__)
def test_every_figure_of_a_model_shows_the_names_of_classes(
    config: Any, digits: PreparedData, features: Features, drawn_texts: list[Any]
) -> None:
    named = digits.model_copy(update={"classes": NAMES})
    model = build(config(trunk=SMALL, latent_dim=2), named)
    evidence = evaluate(Evidence(model, named, features, EvaluationConfig()), only=()).evidence
    with_names = {"like", "classes", "codes", "codes_tsne"}
    for name in FIGURES:
        drawn_texts.clear()
        if draw_figures(evidence, only=(name,)).found and name in with_names:
            missing = {visible(one) for one in NAMES} - set(shown(drawn_texts))
            assert not missing, name
    assert ("codes" in draw_figures(evidence, only=("codes",)).found) == (config is not CVAEConfig)


def test_figures_of_a_search_show_its_choices(drawn_texts: list[Any]) -> None:
    key = "model.trunk.name"
    choices = ("$a$", "_b", "[c]")
    trials = [Trial(i, {key: choice}, "complete", (1.0 + 20 * i,)) for i, choice in enumerate(choices)]
    varied = {key: Choice(choices=choices)}
    result = SearchResult("x", varied, ("mse",), ("minimize",), trials, trials[:1], trials[0], {})
    assert draw_search_figures(result).found.keys() == {"history", "slice"}
    assert {*choices, "Best: trunk $a$"} <= set(shown(drawn_texts))
    powers = [text for text in drawn_texts if "mathdefault" in text.get_text()]  # of the logarithmic axis
    assert powers
    assert all(text.get_parse_math() for text in powers)


def test_figures_of_comparisons_and_checks_draw_nothing_as_a_formula(
    digits: PreparedData, drawn_texts: list[Any]
) -> None:
    model = build(VAEConfig(trunk=SMALL, latent_dim=2), digits)
    evidence = Evidence(model, digits, None, EvaluationConfig())
    systems = {"$a$": evidence, "_b": evidence}
    side_by_side(systems, "of $data$")
    rate_distortion(systems, {"$a$": (1.0, 100.0), "_b": (20.0, 80.0)})
    scores = Scores(np.arange(20.0), np.arange(20.0))
    histograms(scores, scores)
    worst(np.zeros((8, 1, 8, 8), np.uint8), np.zeros((8, 1, 8, 8), np.float32), np.arange(8.0))
    assert {"$a$", "_b", "of $data$"} <= set(shown(drawn_texts))
    formulas = [text.get_text() for text in drawn_texts if "$" in text.get_text() and text.get_parse_math()]
    assert formulas
    assert all("mathdefault" in formula for formula in formulas)  # of the logarithmic axis


def of_name(name: str) -> Picture:
    return sheet(torch.zeros(4, 1, 8, 8), 4, Labels("title", [name]))


def test_a_letter_that_the_usual_font_lacks_comes_from_another() -> None:
    families = ["STIXGeneral", "DejaVu Serif", "DejaVu Sans Mono"]
    assert choose_fonts(ONLY_SERIF + ONLY_MONO, lambda: families[1:]) == (
        ("DejaVu Serif", "DejaVu Sans Mono"),
        frozenset(),
    )
    assert choose_fonts(ONLY_SERIF + CHINESE, lambda: families[:2]) == (("DejaVu Serif",), frozenset(CHINESE))


def test_fonts_are_looked_for_only_where_the_usual_one_lacks_a_letter() -> None:
    """A minus sign and an accented e are not ASCII, and every number and many names have them."""

    def looked_for() -> list[str]:
        raise AssertionError

    assert choose_fonts("\u2212\xe9", looked_for) == ((), frozenset())
    assert choose_fonts("", looked_for) == ((), frozenset())


@pytest.fixture
def only_those_of_matplotlib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretends that the machine has no fonts of its own."""
    caches = (lettering._found, lettering._absent)
    monkeypatch.setattr(lettering, "_installed", lambda: ["DejaVu Serif"])
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("only_those_of_matplotlib")
def test_a_letter_that_no_font_has_is_drawn_by_its_number_and_that_is_said_once(
    drawn_texts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        of_name(CHINESE)
        of_name(CHINESE)
    assert r"\u732b\u548c\u72d7" in shown(drawn_texts)
    (message,) = caplog.messages
    assert r"\u548c, \u72d7, \u732b" in message
    assert "install a font" in message
    of_name(ONLY_SERIF)
    assert ONLY_SERIF in shown(drawn_texts)


@pytest.mark.skipif(drawable(CHINESE) != CHINESE, reason="no font for Chinese is installed here")
def test_chinese_is_drawn_where_a_font_has_it(drawn_texts: list[Any]) -> None:
    pictures_of = [of_name(name) for name in (CHINESE, CHINESE[::-1])]
    assert CHINESE in shown(drawn_texts)
    assert not np.array_equal(*pictures_of)  # they are no boxes, which are all alike


def test_a_name_has_room(drawn_texts: list[Any]) -> None:
    """Letters are not all equally wide."""
    picture = of_name("W" * 14)
    name = next(text for text in drawn_texts if text.get_text().startswith("W"))
    assert name.get_window_extent().x0 > 0
    assert (picture[:, 0] == pictures.PAPER).all()


def test_a_name_that_is_cut_says_so() -> None:
    assert told_apart(["a" * 14], 14) == ["a" * 14]
    assert told_apart(["a" * 8 + "b" * 7], 14) == ["a" * 7 + "…" + "b" * 6]
    assert told_apart(["a\nb"], 14) == [r"a\nb"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["photograph_of_a_cat", "photograph_of_a_cow"], ["…cat", "…cow"]),
        (["photograph_of_a_cat", "drawing"], ["photogr…_a_cat", "drawing"]),
        (["one_a_" + "x" * 20, "one_b_" + "x" * 20], ["…a_xxxx…xxxxxx", "…b_xxxx…xxxxxx"]),
        (["x" * 20 + "a" + "y" * 20, "x" * 20 + "b" + "y" * 20, "z"], ["…ayyyyy…yyyyyy", "…byyyyy…yyyyyy", "z"]),
        (["same name of all"] * 2, ["same na…of all"] * 2),
    ],
)
def test_long_names_are_told_apart(names: list[str], shown: list[str]) -> None:
    assert told_apart(names, 14) == shown


def test_the_names_of_a_legend_are_told_apart(digits: PreparedData, drawn_texts: list[Any]) -> None:
    named = digits.model_copy(update={"classes": tuple(f"photograph_of_the_digit_{i}" for i in range(10))})
    evidence = Evidence(build(VAEConfig(trunk=SMALL, latent_dim=2), named), named, None, EvaluationConfig())
    draw_figures(evidence, only=("codes",))
    assert {f"…{i}" for i in range(10)} <= set(shown(drawn_texts))
