"""Tells whether an error means that Prefect's server is away."""

from __future__ import annotations

import httpx

from aemodels.tracking.outages import causes


def is_away(error: object) -> bool:
    """Tells whether Prefect's server did not answer, or answered that it cannot now."""
    return any(
        isinstance(cause, httpx.TransportError)
        or (isinstance(cause, httpx.HTTPStatusError) and cause.response.is_server_error)
        for cause in causes(error)
    )
