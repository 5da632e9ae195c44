"""Writes texts, numbers and moments for a person; what cannot be shown in a text becomes an escape."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime

ESCAPED = ("Cc", "Cs", "Zl", "Zp")  # controls such as ESC, halves of letters, separators of lines and paragraphs
REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they make a text read otherwise


@dataclass(frozen=True)
class Typed:
    """Says what a person can type for a setting, where it is more than the type of its field tells; part of the type.

    Example:
        >>> from typing import Annotated
        >>> Side = Annotated[int, Typed("side in pixels")]
    """

    text: str


def visible(text: str, keep: str = "") -> str:
    r"""Returns the text with escapes such as `\x1b` for what would act on a terminal or a page instead of being shown.

    Args:
        keep: characters that stay, such as the line breaks of a message.

    Example:
        >>> visible("a\x1b[31m[red] b\n")
        'a\\x1b[31m[red] b\\n'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter in keep or not _acts(letter) else escape(letter) for letter in text)


def _acts(letter: str) -> bool:
    return unicodedata.category(letter) in ESCAPED or letter in REORDERING


def storable(text: str) -> str:
    r"""Returns the text with escapes for halves of letters, which databases and files do not take.

    A file's name has such halves where it is no Unicode.

    Example:
        >>> storable("a\udcff")
        'a\\udcff'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def escape(letter: str) -> str:
    r"""Returns a character as Python writes its code point, such as `\u4e2d`."""
    return letter.encode("unicode_escape").decode("ascii")


def in_markdown(text: str) -> str:
    r"""Returns the text for a page in Markdown, on which no letter of it is a sign of Markdown or HTML.

    Where a page makes links of bare addresses, such as www.example.org, it does so in the text as well.

    Example:
        >>> in_markdown("a|b <i>"), in_markdown("so: no :smile:")
        ('a\\|b \\<i\\>', 'so: no \\:smile:')
    """
    # MLflow's pages show the backslash before a colon, which is a sign only where it begins the name of an emoji.
    marked = re.sub(r"([\\`*_{}\[\]()<>#+\-!|~$&]|:(?=[\w+-]+:))", r"\\\1", visible(text))
    return re.sub(r"^ ", "&#32;", re.sub(r"^(\d+)\.", r"\1\\.", marked))  # no list, and no code


def code_in_markdown(text: str) -> str:
    """Returns the text as code on a page in Markdown; it may hold backticks, which begin and end code there."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{visible(text)}{space}{fence}"


def number(value: float) -> str:
    """Writes a number with four digits.

    Example:
        >>> number(0.123456), number(12345.6), number(9e30)
        ('0.1235', '12,346', '9e+30')
    """
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


MOST_DIGITS = 6  # behind the point, in a number with its error


def with_error(value: float, error: float | None) -> str:
    """Writes a number with its standard error, both down to the second digit of the error.

    Example:
        >>> with_error(4.6312, 0.2084), with_error(1234.5, 31.2), with_error(0.5, None)
        ('4.63 ± 0.21', '1,234 ± 31', '0.5')
    """
    if error is None or not error > 0 or not math.isfinite(value + error):
        return number(value)
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > MOST_DIGITS:
        return f"{value:.4g} ± {error:.2g}"
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def local_time(moment: datetime) -> str:
    """Returns a moment as a person reads it, in the time zone of this machine (or of TZ), which is named.

    Args:
        moment: a moment with any time zone.
    """
    local = moment.astimezone()
    offset = f"{local:%z}"  # +0100
    zone = "UTC" if offset == "+0000" else f"UTC{offset[:3]}:{offset[3:5]}"
    return f"{local:%Y-%m-%d %H:%M} {zone}"
