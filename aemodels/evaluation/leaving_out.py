"""Leaves out, with its reason, what cannot be measured or drawn, so that no metric and no figure ends a run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, NoReturn, TypeVar

from aemodels.config import UserError
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.needs import AMOUNTS, Need
from aemodels.runtime.memory import is_out_of_memory, out_of_memory
from aemodels.runtime.progress import Progress, Steps, finish

T = TypeVar("T")
TAG = "left_out."  # the beginning of the tags of runs and registered versions that hold the reasons

log = logging.getLogger(__name__)


class NotEnoughError(Exception):
    """A metric or a figure needs more than these images give; the message completes the sentence "it ..."."""


class Made(NamedTuple, Generic[T]):
    """Holds what could be made, and why the rest could not."""

    found: dict[str, T]
    left_out: dict[str, str]  # name -> reason


def make_each(makers: Mapping[str, Callable[[], T]], raised: tuple[type[Exception], ...] = (UserError,)) -> Made[T]:
    """Calls each function, as `making_each` does."""
    return finish(making_each(makers, raised))


def making_each(
    makers: Mapping[str, Callable[[], T]], raised: tuple[type[Exception], ...] = (UserError,), work: str = ""
) -> Steps[Made[T]]:
    """Calls each function, and reports which; if one fails, the others are made all the same.

    A mistake in a function's code is logged with its trace, which -v shows; the tests fail at such a record.

    Args:
        raised: errors that are not caught, because a person can mend them and run the same command again.
    """
    made: Made[T] = Made({}, {})
    for done, (name, make) in enumerate(makers.items()):
        yield Progress(work, done, len(makers), name)
        try:
            made.found[name] = make()
        except NotEnoughError as error:
            made.left_out[name] = f"it {error}"
        except raised:
            raise
        except Exception as error:
            log.info("%s was left out", name, exc_info=True)
            made.left_out[name] = _in_words(error)
    return made


def making_from(
    evidence: Evidence,
    makers: Mapping[str, tuple[Sequence[Need], Callable[[Evidence], T]]],
    work: str,
    raised: tuple[type[Exception], ...] = (UserError,),
) -> Steps[Made[T]]:
    """Makes from a model's evidence each of these that the model and its data have, and leaves the others out.

    Args:
        makers: name -> its needs, and the function. One whose need more images would not meet does not apply to this
            model and these data, and is not mentioned.
        work: what is being done, for the reports.
        raised: as for `making_each`.
    """
    own: dict[str, Callable[[], T]] = {}
    for name, (needs, make) in makers.items():
        missing = [need for need in needs if not evidence.has(need)]
        if all(need in AMOUNTS for need in missing):
            own[name] = partial(_refuse, missing[0], evidence) if missing else partial(make, evidence)
    return (yield from making_each(own, raised, work))


def named(need: Need, evidence: Evidence) -> str:
    """Returns a need in words."""
    return f"{AMOUNTS[need]} {evidence.split} images or more" if need in AMOUNTS else need


def _refuse(need: Need, evidence: Evidence) -> NoReturn:
    raise NotEnoughError(f"needs {named(need, evidence)}; the data have {evidence.data.sizes[evidence.split]}")


def as_tags(left_out: Mapping[str, str]) -> dict[str, str]:
    """Returns the reasons as tags of a run or of a registered version."""
    return {f"{TAG}{name}": reason for name, reason in left_out.items()}


def _in_words(error: Exception) -> str:
    """Says that memory ran out, or what went wrong and where in the program, for the person who reports it."""
    if is_out_of_memory(error):
        return out_of_memory(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = str(error).partition("\n")[0]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return f"the program failed at it with {type(error).__name__}: {message} ({where})"
