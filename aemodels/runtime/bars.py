"""A progress bar is drawn where a person watches, and nowhere else."""

from __future__ import annotations

import sys
from typing import TypeVar

from aemodels.runtime.progress import Progress, Steps, finish

T = TypeVar("T")


def watched(steps: Steps[T]) -> T:
    """Runs steps to their end, with a bar for each piece of work in a terminal or a notebook."""
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return finish(steps)
    from tqdm.auto import tqdm

    bars: dict[str, tqdm] = {}

    def show(report: Progress) -> None:
        bar = bars.get(report.work)
        if bar is None:
            bar = bars[report.work] = tqdm(total=report.total, desc=report.work)
        bar.total, bar.n = report.total, report.done  # the first report may not know the total
        bar.set_postfix_str(report.note, refresh=False)
        bar.refresh()

    try:
        return finish(steps, show)
    finally:
        for bar in bars.values():
            bar.close()
