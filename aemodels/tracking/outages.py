"""Recognises errors that may pass: a full disk, a server or database that is away for a while."""

from __future__ import annotations

from collections.abc import Iterator

from aemodels.config import OutageError
from aemodels.runtime.files import in_words


def is_outage(error: object) -> bool:
    """Tells whether an error may be over later, such as a full disk, or a server that did not answer for minutes."""
    from psycopg import OperationalError  # beneath what Optuna raises while its database is away
    from urllib3.exceptions import HTTPError  # beneath what MLflow's client raises where there is no connection

    if isinstance(error, BaseException) and (told := in_words(error)) is not None:
        return isinstance(told, OutageError)
    return any(isinstance(cause, HTTPError | OperationalError) for cause in causes(error))


def causes(error: object) -> Iterator[BaseException]:
    """Yields an error, then what it came from, back to the first."""
    while isinstance(error, BaseException):
        yield error
        error = error.__cause__ or error.__context__
