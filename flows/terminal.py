"""Prints what a person sees: bars on standard error while work goes on, and tables on standard output at its end.

With `--json` standard output holds nothing but the JSON. Whatever is printed is printed here, as it is: texts come from
outside, and `[red]` in a file's name is no colour.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from aemodels.runtime.progress import Progress as Report
from aemodels.runtime.progress import Steps, finish
from aemodels.texts import local_time, number, visible

T = TypeVar("T")
LINE_SECONDS = 15.0  # between two lines on a pipe while a piece of work goes on


class Bars:
    """Draws a bar for each piece of work; on a pipe, it prints a line every few seconds instead."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        self.console = console
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.seen: set[str] = set()
        self.printed, self.last = "", time.monotonic()  # the last line, and when it was printed

    def show(self, report: Report) -> None:
        """Moves the bar of the report's work."""
        report = report._replace(work=visible(report.work), note=visible(report.note))
        if report.work not in self.tasks:
            self.tasks[report.work] = self.progress.add_task(report.work, note="")
        task = self.tasks[report.work]
        self.progress.update(task, completed=report.done, total=report.total, note=report.note)
        self._print_line(report)
        if report.done >= report.total:
            self.progress.stop_task(task)
            del self.tasks[report.work]

    def _print_line(self, report: Report) -> None:
        """Prints on a pipe the end of a work, a note at its start, and now and then how far it is."""
        now, ended, started = (
            time.monotonic(),
            report.done >= report.total,
            report.work not in self.seen and report.note,
        )
        self.seen.add(report.work)
        if self.console.is_terminal or not (ended or started or now - self.last > LINE_SECONDS):
            return
        far = "" if ended else f" {report.done}/{report.total}"
        line = f"{report.work}{far}: {report.note}".removesuffix(": ")
        if line != self.printed:
            self.console.print(line, soft_wrap=True)
        self.printed, self.last = line, now


current: ContextVar[Bars | None] = ContextVar("bars", default=None)


@contextmanager
def bars() -> Iterator[Bars]:
    """Draws the progress of steps within the block, also of flows that run in this process."""
    drawn = Bars(_console(stderr=True))
    token = current.set(drawn)
    try:
        with drawn.progress:
            yield drawn
    finally:
        current.reset(token)


def say(text: str) -> None:
    """Prints something that a person who watches should know at once."""
    if drawn := current.get():
        drawn.console.print(visible(text, keep="\n"), soft_wrap=True)


def follow(steps: Steps[T]) -> T:
    """Runs steps to their end, drawing them if a person watches."""
    drawn = current.get()
    return finish(steps, drawn.show) if drawn else finish(steps)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table; numbers are aligned at the right."""
    drawn = Table(title=visible(title), title_justify="left", title_style="bold", header_style="bold")
    kept = [list(row) for row in rows]
    for i, column in enumerate(columns):
        numeric = any(isinstance(row[i], int | float) for row in kept)
        drawn.add_column(visible(column), justify="right" if numeric else "left", overflow="fold")
    for row in kept:
        drawn.add_row(*(text(value) for value in row))
    _out().print(drawn)


def facts(rows: Mapping[str, object]) -> None:
    """Prints names and values; values that are links or paths stay whole, so that they can be clicked and copied.

    A list stands below its name, with a line for each value.
    """
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        first, *more = ["", *map(text, value)] if isinstance(value, list) else [text(value)]
        print(f"{visible(name):<{width}}  {first}")
        for line in more:
            print(f"  {line}")


def sentence(words: str) -> None:
    """Prints a sentence on standard output, at once: the command may go on for hours."""
    print(visible(words), flush=True)


def as_json(value: object) -> None:
    """Prints JSON; a number that is not finite becomes null, which every reader of JSON knows."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False))


def text(value: object) -> str:
    """Writes a value as a person reads it, on one line: four digits of a number, a moment in the local time zone."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    return local_time(value) if isinstance(value, datetime) else visible(str(value))


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return str(value) if isinstance(value, Path) else value


def wide() -> bool:
    """Tells whether there is room for more than the most important columns."""
    return _out().width >= 110


def _out() -> Console:
    # a pipe has no width of its own: a table there is as wide as it needs to be
    return _console() if sys.stdout.isatty() else _console(width=160)


def _console(stderr: bool = False, width: int | None = None) -> Console:
    """Returns a console that prints texts as they are: it reads no markup and no `:smile:`, and colours no numbers."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)
