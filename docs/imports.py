"""Draws the figure of imports between the rooms from the code, and copies what else the site needs.

MkDocs calls the functions that begin with `on_`. `python docs/imports.py` prints the imports in words.
`tests/test_layers.py` reads the imports by the same functions.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = "<!-- figure: imports -->"
OUTSIDE = ("benchmarks/results", "CHANGELOG.md", "CONTRIBUTING.md")  # files beside docs/ that its pages link to
LEFT_OUT = {"aemodels", "former"}  # the package's own file, and names of old for models that were registered long ago
WIDTH, ROW, BOX, HIGH, GAP = 760, 74, 104, 34, 44  # pixels


def room(module: str) -> str:
    """Returns a module's room: that of aemodels.models.vae is models, that of flows.cli.main is flows."""
    package, *rest = module.split(".")
    return rest[0] if package == "aemodels" and rest else package


def modules(root: Path, *folders: str) -> dict[str, Path]:
    """Returns the file of each module, such as that of aemodels.models.vae; a package is named by its folder."""
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(path: Path, known: Collection[str]) -> set[str]:
    """Returns all modules that a file imports, also inside functions and for types alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else node.module for name in inner}
    return names


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Returns the rooms that each room imports."""
    files = modules(root, "aemodels", "flows")
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        own = {room(name) for name in imported(path, files) & files.keys()} - {room(module)}
        found.setdefault(room(module), set()).update(own)
    return {name: others - LEFT_OUT for name, others in sorted(found.items()) if name not in LEFT_OUT}


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Returns each room's floor: 0 imports none, any other stands just above the highest that it imports."""
    heights: dict[str, int] = {}
    while len(heights) < len(graph):
        ready = {name for name, others in graph.items() if name not in heights and others <= heights.keys()}
        if not ready:
            raise ValueError(f"these import each other: {', '.join(sorted(graph.keys() - heights.keys()))}")
        heights |= {name: 1 + max((heights[other] for other in graph[name]), default=-1) for name in ready}
    return heights


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leaves out the imports that a way over other rooms implies already: the others alone are drawn in full."""
    below: dict[str, set[str]] = {}
    for name in sorted(graph, key=floors(graph).__getitem__):
        below[name] = graph[name].union(*(below[other] for other in graph[name]))
    return {
        name: {other for other in others if not any(other in below[step] for step in others - {other})}
        for name, others in graph.items()
    }


def figure(graph: dict[str, set[str]]) -> str:
    """An SVG: a row for each floor, an arrow for each import. It takes the colours of the page."""
    heights, strong = floors(graph), direct(graph)
    top = max(heights.values())
    at: dict[str, tuple[float, float]] = {}
    for height in range(top + 1):
        row = sorted(name for name, floor in heights.items() if floor == height)
        shift = (height % 3 - 1) * (BOX / 2 + GAP / 2)  # so that not all arrows run through the boxes between
        for i, name in enumerate(row):
            at[name] = (WIDTH / 2 + shift + (i - (len(row) - 1) / 2) * (BOX + GAP), (top - height) * ROW + HIGH)
    lines = [
        _arrow(at[name], at[other], faint=other not in strong[name])
        for name, others in graph.items()
        for other in sorted(others)
    ]
    boxes = [_box(name, *place) for name, place in at.items()]
    pairs = sum(map(len, graph.values()))
    title = f"{len(graph)} rooms and the {pairs} imports between them"
    return (
        f'<svg viewBox="0 0 {WIDTH} {top * ROW + 2 * HIGH}" role="img" aria-label="{title}" '
        'style="width:100%;font-family:inherit;font-size:14px">'
        f"<title>{title}</title>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], faint: bool) -> str:
    (x, y), (u, v) = start, end
    y, v = y + HIGH / 2, v - HIGH / 2
    bend = max(20.0, (v - y) / 3)
    look = 'opacity="0.13"' if faint else 'opacity="0.75" marker-end="url(#tip)"'
    way = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {u:.0f} {v - bend:.0f} {u:.0f} {v:.0f}"
    return f'<path d="{way}" fill="none" stroke="currentColor" {look}/>'


def _box(name: str, x: float, y: float) -> str:
    left, up = x - BOX / 2, y - HIGH / 2
    return (
        f'<rect x="{left:.0f}" y="{up:.0f}" width="{BOX}" height="{HIGH}" rx="6" stroke="currentColor" '
        'style="fill:var(--md-default-bg-color,white)"/>'
        f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="currentColor">{escape(name)}</text>'
    )


# ---------------------------------------------------------------- MkDocs


def on_files(files: Any, config: Any) -> Any:
    """Adds the files beside docs/ that its pages link to."""
    from mkdocs.structure.files import File, InclusionLevel

    for place in OUTSIDE:
        found = ROOT / place
        for path in sorted(found.iterdir()) if found.is_dir() else [found]:
            if path.is_file():
                name = path.relative_to(ROOT).as_posix()
                listed = InclusionLevel.NOT_IN_NAV if found.is_dir() else InclusionLevel.INCLUDED
                site, urls = config["site_dir"], config["use_directory_urls"]
                files.append(File(name, str(ROOT), site, urls, inclusion=listed))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Draws the figure, and points links that leave docs/ to where those files lie in the site."""
    if page.file.src_uri in OUTSIDE:
        return markdown.replace("](docs/", "](")
    return markdown.replace(PLACE, f"<div>{figure(imports())}</div>").replace("](../", "](")


def on_post_page(output: str, page: Any, **_: Any) -> None:
    """Fails where a page would fetch something from elsewhere: the site is read without network."""
    from mkdocs.exceptions import PluginError

    if fetched := re.search(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="https?://[^"]*"', output):
        raise PluginError(f"{page.file.src_uri} fetches {fetched[0]}")


if __name__ == "__main__":
    for name, others in imports().items():
        sys.stdout.write(f"{name}: {' '.join(sorted(others)) or '-'}\n")
