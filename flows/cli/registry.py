"""Defines commands on registered models: they list models and champions, and choose the champion."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import Json, Name, Reason
from flows.cli.session import answering


def models(json: Json = False) -> None:
    """List all versions of all registered models."""
    with answering(verbose=False):
        from aemodels.tracking.catalog import list_models
        from aemodels.tracking.store import open_store
        from flows.cli import results

        results.models(list_models(open_store()), json)


def promote(
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Give the number of the version.")],
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Make a version the champion, without asking the gate."""
    with answering(verbose=False):
        from flows.cli import results, work

        results.champion(work.promote(name, version, reason), json)


def rollback(name: Name, reason: Reason = "", json: Json = False) -> None:
    """Make the previous champion the champion again."""
    with answering(verbose=False):
        from flows.cli import results, work

        results.champion(work.rollback(name, reason), json)


def history(name: Name, json: Json = False) -> None:
    """List who decided about champions, when and why.

    The list has all champions, and every decision of a person.
    """
    with answering(verbose=False):
        from aemodels.tracking import history as decisions
        from aemodels.tracking.store import open_store
        from flows.cli import results

        results.history(name, decisions.history(open_store(), name), json)
