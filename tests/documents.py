"""Reads the pages for people, for their tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from places import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


class Block(NamedTuple):
    """A block is a piece of code on a page."""

    language: str  # "" where none is given
    text: str


def named(page: Path) -> str:
    """README.md or docs/models.md, for the name of a test."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """Blocks of these languages, or all of them; an indented block has none."""
    found = [
        Block(token.info.strip(), token.content) for token in _tokens(page) if token.type in ("fence", "code_block")
    ]
    return [block for block in found if not languages or block.language in languages]


def spans(page: Path) -> list[str]:
    """What stands in `backticks` within the text."""
    return [token.content for token in _inline(page) if token.type == "code_inline"]


def links(page: Path) -> list[str]:
    """Where links and pictures point."""
    found = [token.attrGet("href" if token.type == "link_open" else "src") for token in _inline(page)]
    return [str(link) for link in found if link]


def headings(page: Path) -> list[str]:
    """The text of each heading."""
    pairs = pairwise(_tokens(page))
    return [text.content for opening, text in pairs if opening.type == "heading_open"]


def anchor(heading: str) -> str:
    """The name that MkDocs and GitHub give a heading of plain words."""
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"\s", "-", plain)


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def _inline(page: Path) -> Iterator[Token]:
    for token in _tokens(page):
        yield from token.children or ()
