"""The command that compares systems."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.answering import answering, under_prefect
from flows.options import Json, Verbose

ARGUMENTS = "Presets or JSON files, each one system (or a comparison of several), and settings that all of them share."


def compare(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG]... [KEY=VALUE]...", help=ARGUMENTS, show_default=False)
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="A comparison that comes along: article; or settings for all, such as fast."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Train each system with so many seeds.")] = None,
    json: Json = False,
    v: Verbose = False,
) -> None:
    """Train and judge several systems on the same images."""
    with answering(v, computes=True):
        from aemodels.comparison import load_comparison
        from aemodels.config import read_text

        named = [text for text in arguments or [] if "=" not in text]
        changes = read_text([text for text in arguments or [] if "=" in text])
        comparison = load_comparison(named, changes, preset or (), seeds)
        from aemodels.steps.compare import check
        from flows import display, reports

        check(comparison)
        with display.bars():
            if under_prefect():
                from flows.compare import compare as flow

                result = flow(comparison)
            else:
                from aemodels.steps.compare import compare as step
                from aemodels.steps.prepare import prepare

                first = next(iter(comparison.settings.values()))
                result = display.follow(step(comparison, display.follow(prepare(first))))
        reports.compared(result, json)
