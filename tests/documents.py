"""Reads the pages that are written for people, for the tests of them."""

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
    """Returns a page's path from the top, such as docs/models.md, for the name of a test."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """Returns the blocks of these languages, or all of them; an indented block has no language."""
    found = [
        Block(token.info.strip(), token.content) for token in _tokens(page) if token.type in ("fence", "code_block")
    ]
    return [block for block in found if not languages or block.language in languages]


def spans(page: Path) -> list[str]:
    """Returns each text that stands in `backticks`."""
    return [token.content for token in _inline(page) if token.type == "code_inline"]


def links(page: Path) -> list[str]:
    """Returns the addresses of links and pictures."""
    found = [token.attrGet("href" if token.type == "link_open" else "src") for token in _inline(page)]
    return [str(link) for link in found if link]


def headings(page: Path) -> list[str]:
    """Returns the text of each heading."""
    pairs = pairwise(_tokens(page))
    return [text.content for opening, text in pairs if opening.type == "heading_open"]


def anchor(heading: str) -> str:
    """Returns the name that MkDocs and GitHub give to a heading of plain words."""
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"\s", "-", plain)


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def _inline(page: Path) -> Iterator[Token]:
    for token in _tokens(page):
        yield from token.children or ()
