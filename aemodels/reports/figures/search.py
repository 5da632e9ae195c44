"""Draws the figures of a search: its course, what mattered, and where the good models lie.

Optuna's own plots are less legible: docs/architecture.md, "Own code that a library has, and why".
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aemodels.config import Choice, Range, in_short
from aemodels.evaluation.leaving_out import Made, make_each
from aemodels.reports.pictures import FONT, WIDTH, Picture, drawn, plots
from aemodels.tuning.events import SearchResult, Trial

if TYPE_CHECKING:  # half a second that only drawing has to wait for
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.tri import Triangulation

HEIGHT = 380  # pixels of a panel
TITLE_LINE, TRIAL_LINE = 90, 60  # letters
CHOICE_LINE, CHOICE_LINES = 22, 3  # letters and lines of a choice's label; of a longer one the beginning is shown
ACROSS, BESIDE = 80, 8  # letters that the axis below has room for; choices that are written beside each other there
WIDE = 10.0  # times the smallest value: beyond it values are drawn on a logarithmic scale


def draw_search_figures(result: SearchResult) -> Made[Picture]:
    """Draws the figures that there are enough trials for, by name: history, importances, and contour or front."""
    drawings = {"history": _history}
    if len(result.importances) > 1:
        drawings["importances"] = _importances
    if len(result.objectives) > 1:
        drawings["front"] = _front
    elif len(result.space) > 1:
        drawings["contour"] = _contour
    else:
        drawings["slice"] = _slice
    return make_each({name: partial(draw, result) for name, draw in drawings.items()})


# ---------------------------------------------------------------- the figures


def _history(result: SearchResult) -> Picture:
    """Draws each objective of the trials in their order, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    count = len(result.objectives)
    figure, panels = plots(count, 1, WIDTH, (HEIGHT if count == 1 else 300 * count), "Search: its course")
    complete = _in_state(result, "complete")
    numbers = [trial.index for trial in complete]
    for place, axes in enumerate(panels):
        values = [trial.values[place] for trial in complete]
        better = np.minimum if result.directions[place] == "minimize" else np.maximum
        so_far = better.accumulate(values).tolist()
        axes.step([*numbers, len(result.trials) - 1], [*so_far, so_far[-1]], where="post", color="tab:blue", alpha=0.5)
        axes.scatter(numbers, values, color="tab:blue", zorder=3, label="complete (line: best so far)")
        pruned = [trial for trial in _in_state(result, "pruned") if np.isfinite(_last(trial))]
        if pruned:
            last = [_last(trial) for trial in pruned]
            axes.scatter([t.index for t in pruned], last, color="0.6", marker="x", label="pruned (its last epoch)")
            values += last
        for count, trial in enumerate(_in_state(result, "failed")):
            axes.axvline(trial.index, color="tab:red", linestyle=":", label=None if count else "failed")
        _value_axis(axes, values)
        axes.set_xlabel("trial", fontsize=FONT)
        axes.set_ylabel(_label(result, place), fontsize=FONT)
        axes.set(xlim=(-0.5, len(result.trials) - 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend(panels[0])
    return drawn(figure)


def _importances(result: SearchResult) -> Picture:
    """Draws how much of the objective's variation each parameter explains."""
    figure, (axes,) = plots(1, 1, WIDTH, HEIGHT, f"What val/{result.objectives[0]} depends on")
    ordered = sorted(result.importances.items(), key=lambda item: item[1])
    bars = axes.barh([key for key, _ in ordered], [share for _, share in ordered], color="tab:blue", height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    count = len(_in_state(result, "complete"))
    axes.set_xlabel(f"share of its variation (fANOVA of {count} complete trials)", fontsize=FONT)
    axes.set_xlim(0, 1.08)
    return drawn(figure)


def _contour(result: SearchResult) -> Picture:
    """Draws the objective over the two parameters that matter most."""
    from matplotlib.colors import LogNorm, Normalize

    figure, (axes,) = plots(1, 1, WIDTH, HEIGHT, _title(result))
    x_key, y_key = sorted(result.space, key=lambda key: -result.importances.get(key, 0))[:2]

    def places(trials: list[Trial]) -> tuple[list[float], list[float]]:
        return _places(result.space[x_key], trials, x_key), _places(result.space[y_key], trials, y_key)

    complete = _in_state(result, "complete")
    values = np.array([trial.values[0] for trial in complete])
    scale = (LogNorm if _spreads(values) else Normalize)(values.min(), values.max())
    palette = "viridis_r" if result.directions[0] == "minimize" else "viridis"  # bright is better
    surface = _triangles(*places(complete))
    between = all(isinstance(result.space[key], Range) for key in (x_key, y_key))  # nothing lies between choices
    if surface is not None and between and values.max() > values.min():
        levels = scale.inverse(np.linspace(0, 1, 13))
        axes.tricontourf(surface, values, levels=levels, cmap=palette, norm=scale, alpha=0.75)
    points = axes.scatter(*places(complete), c=values, cmap=palette, norm=scale, edgecolors="black", s=55, zorder=3)
    figure.colorbar(points, ax=axes).set_label(_label(result, 0), fontsize=FONT)
    for state, marker, colour in (("pruned", "x", "0.35"), ("failed", "X", "tab:red")):
        if others := _in_state(result, state):
            axes.scatter(*places(others), marker=marker, color=colour, zorder=3, label=state)
    _star(axes, *places([result.best]))
    _parameter_axis(axes, axes.xaxis, x_key, result.space[x_key])
    _parameter_axis(axes, axes.yaxis, y_key, result.space[y_key])
    _legend(axes)
    return drawn(figure)


def _slice(result: SearchResult) -> Picture:
    """Draws the objective over the only parameter."""
    figure, (axes,) = plots(1, 1, WIDTH, HEIGHT, _title(result))
    ((key, varied),) = result.space.items()
    complete = _in_state(result, "complete")
    values = [trial.values[0] for trial in complete]
    axes.scatter(_places(varied, complete, key), values, color="tab:blue", label="complete")
    _star(axes, _places(varied, [result.best], key), result.best.values[:1])
    _parameter_axis(axes, axes.xaxis, key, varied)
    _value_axis(axes, values)
    axes.set_ylabel(_label(result, 0), fontsize=FONT)
    _legend(axes)
    return drawn(figure)


def _front(result: SearchResult) -> Picture:
    """Draws one objective against the other; no trial is better in both than one of the front."""
    figure, (axes,) = plots(1, 1, WIDTH, HEIGHT, "Pareto front")
    complete = _in_state(result, "complete")
    x, y = np.array([trial.values for trial in complete]).T
    axes.scatter(x, y, color="0.65", label="complete")
    x_front, y_front = np.array([trial.values for trial in result.front]).T
    axes.step(
        x_front, y_front, where="post" if result.directions[0] == "minimize" else "pre", color="tab:blue", alpha=0.5
    )
    axes.scatter(x_front, y_front, color="tab:blue", zorder=3, label="Pareto front")
    for trial in result.front:
        place = (trial.values[0], trial.values[1])
        text = textwrap.shorten(_params(trial), TRIAL_LINE, placeholder=" ...")
        axes.annotate(text, place, (4, 4), textcoords="offset points", fontsize=FONT, rotation=20)
    _value_axis(axes, y)
    if _spreads(x):
        axes.set_xscale("log")
    axes.set_xlabel(_label(result, 0), fontsize=FONT)
    axes.set_ylabel(_label(result, 1), fontsize=FONT)
    axes.margins(0.2)
    axes.legend(fontsize=FONT)  # the labels of the front need the room above
    return drawn(figure)


# ---------------------------------------------------------------- their parts


def _legend(axes: Axes) -> None:
    """Puts the legend above the panel, where no trial lies."""
    axes.legend(fontsize=FONT, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _in_state(result: SearchResult, state: str) -> list[Trial]:
    return [trial for trial in result.trials if trial.state == state]


def _last(trial: Trial) -> float:
    return trial.curve[max(trial.curve)]


def _label(result: SearchResult, place: int) -> str:
    better = "lower" if result.directions[place] == "minimize" else "higher"
    return f"val/{result.objectives[place]} ({better} is better)"


def _params(trial: Trial) -> str:
    """Writes a trial's parameters, such as `latent_dim 20, beta 0.53, trunk conv`."""
    short = {key.removesuffix(".name").rpartition(".")[2]: value for key, value in trial.params.items()}
    return ", ".join(f"{key} {_number(value)}" for key, value in short.items())


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else in_short(value)


def _choices_axis(axis: Axis, choices: Sequence[Any], below: bool) -> None:
    """Breaks labels into lines as long as there is room for; many labels below a panel are turned."""
    beside = below and len(choices) <= BESIDE
    line = min(CHOICE_LINE, ACROSS // len(choices)) if beside else CHOICE_LINE
    labels = [textwrap.fill(in_short(c), line, max_lines=CHOICE_LINES, placeholder=" ...") for c in choices]
    axis.set_ticks(range(len(choices)), labels)
    if below and not beside:
        axis.set_tick_params(rotation=90)


def _title(result: SearchResult) -> str:
    return textwrap.fill(f"Best: {_params(result.best)}", TITLE_LINE)


def _star(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    axes.scatter(x, y, marker="*", s=280, color="tab:red", edgecolors="white", zorder=4, label="best")


def _places(varied: Range | Choice, trials: list[Trial], key: str) -> list[float]:
    """Returns where trials lie on a parameter's axis: choices at 0, 1, ..., a logarithmic range by its logarithm."""
    values = [trial.params[key] for trial in trials]
    if isinstance(varied, Choice):
        return [varied.choices.index(value) for value in values]
    return [math.log10(value) if varied.log else value for value in values]


def _triangles(x: list[float], y: list[float]) -> Triangulation | None:
    """Returns triangles between points; None where the points lie on one line."""
    from matplotlib.tri import Triangulation

    try:
        return Triangulation(x, y)
    except (ValueError, RuntimeError):
        return None


def _spreads(values: NDArray[np.float64] | Sequence[float]) -> bool:
    return bool(np.min(values) > 0 and np.max(values) > WIDE * np.min(values))


def _value_axis(axes: Axes, values: Sequence[float]) -> None:
    if _spreads(values):
        axes.set_yscale("log")


def _parameter_axis(axes: Axes, axis: Axis, key: str, varied: Range | Choice) -> None:
    """Shows the whole range, so that a best value at its end is seen to lie there."""
    axis.set_label_text(key, fontsize=FONT)
    if isinstance(varied, Choice):
        _choices_axis(axis, varied.choices, axis is axes.xaxis)
        low, high = -0.4, len(varied.choices) - 0.6
    elif varied.log:
        low, high = math.log10(varied.low), math.log10(varied.high)
        steps = (1,) if high - low > 3 else (1, 2, 5)
        ticks = [s * 10.0**d for d in range(math.floor(low), math.ceil(high) + 1) for s in steps]
        inside = [tick for tick in ticks if varied.low <= tick <= varied.high]
        axis.set_ticks([math.log10(tick) for tick in inside], [f"{tick:g}" for tick in inside])
    else:
        low, high = varied.low, varied.high
    pad = 0.03 * (high - low)
    (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(low - pad, high + pad)
