"""Defines the command that compares systems."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Annotated

import typer

from flows.cli.options import Json, Verbose
from flows.cli.session import answering

ARGUMENTS = (
    "Name a preset or a JSON file for each system, or a file that holds a comparison of several. "
    "Settings after them are for all systems."
)


def compare(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG]... [KEY=VALUE]...", help=ARGUMENTS, show_default=False)
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="Take a comparison that comes with aemodels, such as article, or settings for all systems."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Train each system this many times, with different seeds.")] = None,
    json: Json = False,
    v: Verbose = False,
) -> None:
    """Train and evaluate several systems on the same images."""
    with answering(v, computes=True):
        from aemodels.settings import load_comparison, read_changes

        named = [text for text in arguments or [] if "=" not in text]
        changes = read_changes([text for text in arguments or [] if "=" in text])
        comparison = load_comparison(named, changes, preset or (), seeds)
        command = _command(arguments or (), preset or (), seeds)
        from aemodels.steps.compare import check
        from flows.cli import results, work

        check(comparison)
        result = work.compare(comparison, command)
        results.compared(result, json)
        results.told(result.folder)


def _command(arguments: Sequence[str], preset: Sequence[str], seeds: int | None) -> str:
    """Returns the command as the table quotes it, with files and folders by name, as they lie elsewhere for others."""
    named = [re.sub(r"[^=,\[\]\"]*/", "", text) for text in arguments]
    before = [word for name in preset for word in ("--preset", name)]
    after = [] if seeds is None else ["--seeds", str(seeds)]
    return shlex.join(["aemodels", "compare", *before, *named, *after])
