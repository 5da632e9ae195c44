"""Draws text in plots letter by letter: it starts no formula, hides no entry, and has a font for each letter."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from aemodels.texts import escape, visible

if TYPE_CHECKING:  # half a second that only drawing has to wait for
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

USUAL = "DejaVu Sans"  # the font that comes with matplotlib
LAST_RESORT = "Last Resort"  # the beginning of the name of a font that has a box for every letter
DOTS = "\N{HORIZONTAL ELLIPSIS}"
REGULAR = 400  # weight of a font that is neither light nor bold
TRIED_SIZE, TRIED_DPI = 9, 100


def letter(figure: Figure) -> None:
    """Makes all texts of a figure that is about to be drawn show what they say."""
    from matplotlib.text import Text

    numbers: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            numbers |= _written_on(axis)
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in numbers:
            text.set_parse_math(False)
            text.set_text(drawable(text.get_text()))
            text.set_fontfamily([USUAL, *_fonts(_rare(text.get_text()))])


def _written_on(axis: Axis) -> set[Any]:
    """Writes an axis's own labels; returns those that matplotlib makes of powers of ten, which are formulas."""
    from matplotlib.ticker import LogFormatter

    labels = axis.get_ticklabels()  # makes those that drawing would make
    if isinstance(axis.get_major_formatter(), LogFormatter):
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        return {label for tick in ticks for label in (tick.label1, tick.label2)}
    names = [label.get_text() for label in labels]
    if any(drawable(name) != name for name in names):  # drawing takes them from the axis again
        axis.set_ticks(axis.get_majorticklocs(), [drawable(name) for name in names])
    return set()


def told_apart(names: Sequence[str], most: int) -> list[str]:
    """Returns names on one line each, of at most so many letters, which differ where the names do.

    Where one is too long, words with which all begin are left out, and then the middle; dots stand for what is.

    Example:
        >>> told_apart(["photograph_of_a_cat", "photograph_of_a_dog"], 14)
        ['…cat', '…dog']
    """
    shown = [visible(name) for name in names]
    if max(map(len, shown), default=0) <= most:
        return shown
    words = re.match(r".*[\W_]", shown[0][: _alike(shown)]) if len(set(shown)) > 1 else None
    texts = _cut(shown, most, words.end() if words else 0)
    return [texts[name] for name in shown]


def _cut(names: Sequence[str], most: int, start: int) -> dict[str, str]:
    """Maps names that are alike up to `start` to what is shown of them."""
    texts = {name: _without_middle(f"{DOTS}{name[start:]}" if start else name, most) for name in names}
    for text, count in Counter(texts.values()).items():
        if count > 1:  # they differ in the middle
            alike = [name for name in texts if texts[name] == text]
            texts |= _cut(alike, most, _alike(alike))
    return texts


def _alike(names: Sequence[str]) -> int:
    """Counts the letters with which all names begin."""
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))


def _without_middle(text: str, most: int) -> str:
    head, tail = most // 2, most - most // 2 - 1
    return text if len(text) <= most else f"{text[:head]}{DOTS}{text[-tail:]}"


def drawable(text: str) -> str:
    """Returns the text with an escape for each character that no installed font has."""
    shown = visible(text, keep="\n")
    absent = _absent(_rare(shown))
    return "".join(escape(letter) if letter in absent else letter for letter in shown) if absent else shown


# ---------------------------------------------------------------- fonts


def _rare(text: str) -> str:
    """Returns the letters that a font may not have, in order, as a key for caches."""
    return "".join(sorted({letter for letter in text if not letter.isascii()}))


def _fonts(letters: str) -> tuple[str, ...]:
    """Returns the font families that have the letters which the usual font lacks."""
    return _found(letters)[0]


@cache
def _absent(letters: str) -> frozenset[str]:
    """Returns the letters that no installed font has, and warns of them once."""
    absent = _found(letters)[1]
    if absent:
        points = ", ".join(map(escape, sorted(absent)))
        logging.getLogger(__name__).warning(
            "no installed font has %s: pictures show these numbers instead; install a font that has them: "
            "those named Noto have the letters of all languages",
            points,
        )
    return absent


@cache
def _found(letters: str) -> tuple[tuple[str, ...], frozenset[str]]:
    return choose_fonts(letters, _installed)


def choose_fonts(letters: str, families: Callable[[], Sequence[str]]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Returns the first families that have the letters which the usual one has not, and the letters that none has.

    Args:
        families: looks for those of the machine, which takes seconds; it is asked where a letter is missing.
    """
    missing = {one for one in letters if not _has(USUAL, one)}
    chosen: list[str] = []
    for family in families() if missing else ():
        if not missing:
            break
        if had := {one for one in missing if _has(family, one)}:
            chosen.append(family)
            missing -= had
    return tuple(chosen), frozenset(missing)


@cache
def _installed() -> list[str]:
    """Returns the font families, those without serifs first, also such as were installed after matplotlib started."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in sorted({*findSystemFonts()} - {font.fname for font in fontManager.ttflist}):
        try:
            fontManager.addfont(path)
        except (OSError, RuntimeError):  # a file that is no font
            continue
    plain = [font for font in fontManager.ttflist if (font.weight, font.style) == (REGULAR, "normal")]
    families = dict.fromkeys(font.name for font in plain if not font.name.startswith(LAST_RESORT))
    return sorted(families, key=lambda family: ("Sans" not in family, "Mono" in family))


def _has(family: str, one: str) -> bool:
    """Tells whether a family draws a letter; fonts of coloured pixels list letters that matplotlib cannot draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    try:
        font = get_font(findfont(FontProperties(family=[family]), fallback_to_default=False))
        font.set_size(TRIED_SIZE, TRIED_DPI)
        if ord(one) not in font.get_charmap():
            return False
        font.load_char(ord(one))
    except (OSError, RuntimeError, ValueError):  # also where the file is gone
        return False
    return True
