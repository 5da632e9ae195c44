"""Tests that text from outside comes through unchanged, wherever it is shown."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from aemodels.config import UserError
from aemodels.texts import code_in_markdown, in_markdown, visible

PLAIN = [
    "$5 to $10_max",
    "[red] x [/red]",
    ":smile:",
    "\u732b\u548c\u72d7",
    "e\u0301",
    "a\u00a0b",
    "\U0001f468\u200d\U0001f469",
    "\u05e9\u05dc",
]
MARKED = [
    "*a* _b_ `c` **d**",
    "a|b",
    "<script>alert(1)</script>",
    "[x](http://y)",
    "![x](y)",
    "# 1",
    "&amp; \\*",
    "~~a~~",
    "1. a",
    "    a",
    "- a",
    "> a",
    "```",
    "`` ` ``",
]


@pytest.mark.parametrize("text", PLAIN + MARKED)
def test_what_can_be_shown_stays(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    "letter", ["\x00", "\x07", "\x08", "\t", "\n", "\r", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\udcff"]
)
def test_what_acts_is_escaped(letter: str) -> None:
    shown = visible(f"a{letter}b")
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape") == f"a{letter}b"
    assert visible(letter, keep=letter) == letter
    assert letter not in str(UserError(f"a{letter}b"))
    assert str(UserError("a", f"b{letter}")) == f"a\nb{visible(letter)}"


@pytest.mark.parametrize("text", PLAIN + MARKED)
def test_markdown_shows_the_text(text: str) -> None:
    """A page that makes no links of addresses shows nothing but a paragraph, or a cell of a table, with the text."""
    page = MarkdownIt("gfm-like", {"linkify": False})
    (words,) = re.fullmatch(r"<p>(.*)</p>\n", page.render(in_markdown(text)), re.DOTALL).groups()  # type: ignore[union-attr]
    assert "<" not in words
    assert html.unescape(words) == text
    table = page.render(f"| a |\n| --- |\n| {in_markdown(text)} |")
    assert f"<td>{words}</td>" in table
    code = page.render(f"by {code_in_markdown(text)}.")
    assert html.unescape(code) == f"<p>by <code>{text}</code>.</p>\n"
