"""Runs a part of the plan: several faults at a time, if they do not disturb each other."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from chaos.plan import Fault, MissedError, plan
from chaos.rows import Row, Rows

TRIES = 3  # to hit a stage


def run_part(part: str, rows: Rows, inflict: Callable[[Fault], Row], at_once: int = 1) -> None:
    """Inflicts the faults of a part that have no row yet, and fails for those that left something wrong.

    CHAOS_ONLY=3,7 inflicts those alone; CHAOS_AGAIN=1 those too that have their row.
    """
    only = {int(number) for number in os.environ.get("CHAOS_ONLY", "").split(",") if number}
    faults = [fault for fault in plan(rows.seed) if fault.part == part and (not only or fault.number in only)]
    again = bool(os.environ.get("CHAOS_AGAIN"))

    def one(fault: Fault) -> str:
        """Returns what went wrong with the suite itself. The fault then has no row, and is repeated the next time."""
        begun = time.monotonic()
        try:
            row = _insist(inflict, fault)
        except Exception as error:
            return f"{fault.number}: the suite failed: {type(error).__name__}: {error}"
        rows.keep(row)
        print(f"{time.monotonic() - begun:.0f} s: {row}", file=sys.stderr, flush=True)
        return ""

    with ThreadPoolExecutor(at_once) as pool:
        todo = [fault for fault in faults if again or not rows.has(fault)]
        futures = [pool.submit(copy_context().run, one, fault) for fault in todo]
    failed = [problem for future in futures if (problem := future.result())]
    numbers = {fault.number for fault in faults}
    found = [row for row in rows.read() if row.number in numbers and row.wrong]
    wrong = [f"{row.number}, {row.kind} ({row.planned}): {'; '.join(row.wrong)}" for row in found]
    if wrong or failed:
        pytest.fail("\n".join(wrong + failed), pytrace=False)


def _insist(inflict: Callable[[Fault], Row], fault: Fault) -> Row:
    """Inflicts a fault in its planned stage. What earlier attempts left wrong stays in the row."""
    missed: list[str] = []
    for attempt in range(TRIES):
        try:
            row = inflict(fault._replace(attempt=attempt))
        except MissedError as error:
            missed += error.wrong
        else:
            row.wrong = missed + row.wrong
            return row
    return Row.of(fault, [], [], [*missed, f"the stage was over {TRIES} times before it was seen"])
