"""Tests that links between the pages lead somewhere, and that each list on a page is complete."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from documents import PAGES, anchor, headings, links, named, spans
from places import ROOT

from aemodels.data import DataConfig
from aemodels.evaluation.metrics import METRICS
from aemodels.models import AnyModelConfig
from aemodels.settings import comparisons, presets
from flows.cli.main import app


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, name = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if name:
            assert name in map(anchor, headings(target)), f"{link}: no such heading"


def in_navigation(entry: object) -> list[str]:
    """Returns the pages that the site's navigation names."""
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry
    return [page for inner in entries for page in in_navigation(inner)]  # type: ignore[attr-defined]


def test_the_site_and_the_readme_name_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {named(page).removeprefix("docs/") for page in PAGES} - {"README.md"}
    assert set(in_navigation(site["nav"])) == pages
    own = {f"docs/{page}" for page in pages if "/" not in page and page.islower()} - {"docs/index.md"}
    assert own <= set(links(ROOT / "README.md"))


def test_the_readme_is_read_at_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def variants(union: object) -> set[str]:
    """Returns the names of a union's members."""
    members = union.__origin__.__args__  # type: ignore[attr-defined]
    return {member.model_fields["name"].default for member in members}


def test_what_exists_is_on_its_page() -> None:
    docs = ROOT / "docs"
    assert variants(AnyModelConfig) | presets().keys() <= set(spans(docs / "models.md"))
    assert variants(DataConfig) <= set(spans(docs / "own-images.md"))
    assert comparisons().keys() <= set(spans(docs / "commands.md")) | {"article"}
    names = {re.sub(r"_[\d.]+$", "", name) for name in METRICS}  # denoising measures at several noises
    assert names <= set(spans(docs / "metrics.md"))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert commands <= {span.split()[1] for span in spans(docs / "commands.md") if span.startswith("aemodels ")}
    rooms = {path.parent.name for path in (ROOT / "aemodels").glob("*/__init__.py")}
    assert {f"aemodels/{room}/" for room in rooms} <= set(spans(docs / "architecture.md"))


def test_the_page_of_metrics_says_what_the_table_says() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)?) \| ([^|]+) \| (.+) \|$", page, re.MULTILINE)
    named = {re.sub(r"_[\d.]+$", "", name): metric for name, metric in METRICS.items()}
    told = 0
    for cell, unit, what in rows:
        metrics = [named[name] for name in re.findall(r"\w+", cell) if name in named]
        told += len(metrics)
        for metric in metrics:
            assert metric.what == what.replace("\\|", "|")
        assert not metrics or unit == ", ".join(metric.unit for metric in metrics)
    assert told == len(named)


def test_what_a_metric_says_fits_a_line() -> None:
    assert max(len(metric.what) for metric in METRICS.values()) <= 75


def test_the_api_pages_leave_out_no_class() -> None:
    """Their filters are for constants, and know them by their names alone."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    (handlers,) = (plugin["mkdocstrings"]["handlers"] for plugin in site["plugins"] if isinstance(plugin, dict))
    filters = [re.compile(text.removeprefix("!")) for text in handlers["python"]["options"]["filters"]]
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    found = [
        name
        for module in re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)
        for name, value in vars(import_module(module)).items()
        if isinstance(value, type) and value.__module__ == module and not name.startswith("_")
    ]
    assert len(found) > 50
    assert [name for name in found if any(filter_.search(name) for filter_ in filters)] == []
