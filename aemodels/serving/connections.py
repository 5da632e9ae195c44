"""Limits how long clients keep the server waiting, and how much it holds in memory for them.

uvicorn waits as long as a client likes for the head of a request, and until an answer has been taken. Its limit of
connections counts idle ones and refuses whoever comes next. Here each wait has an end, and slow clients make way.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HEAD_SECONDS = 10.0  # for the head of a request to arrive, and for the last of an answer to be taken
REST_SECONDS = 30.0  # for the rest of a refused body: it is thrown away, but many clients read no answer before its end
MOST_CONNECTIONS = 500  # a process may have 1,024 open files on most systems
BACKLOG = 128  # clients that are accepted at once, before one of them can be turned away


class Connection(H11Protocol):
    """A connection is uvicorn's, and is closed when its client does not do its part in time."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state | {"connection": weakref.proxy(self)}, _loop)
        self.since = 0.0
        self.end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts a client; where there are too many, the one that has kept the server waiting longest makes way."""
        super().connection_made(transport)
        self._expect_request()
        if len(self.connections) > MOST_CONNECTIONS:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.waits_for_client]
            slowest = min(waiting, key=lambda one: one.since)
            self.connections.discard(slowest)  # it is lost only when the loop comes round
            slowest.transport.abort()

    @property
    def waits_for_client(self) -> bool:
        """Tells whether the server waits for a request, for the rest of one, or until its answer is taken."""
        return self.cycle is None or self.cycle.more_body or self.cycle.response_started or bool(self.flow.write_paused)

    def _expect_request(self) -> None:
        refused = self.cycle is not None and self.cycle.more_body
        self._wait(REST_SECONDS if refused else HEAD_SECONDS)

    def _wait(self, seconds: float) -> None:
        """Gives the client so many seconds to do its part."""
        self.since = self.loop.time()
        if self.end is not None:
            self.end.cancel()
        self.end = self.loop.call_later(seconds, self._is_late)

    def _is_late(self) -> None:
        """Closes the connection, unless the server is at work on a request and the client takes its answers."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle or self.flow.write_paused or self.transport.is_closing():
            self.transport.abort()  # to close it would wait until everything is sent

    def pause_writing(self) -> None:
        """Waits for the client to take what was sent; with requests in a row, the next answer waits as well."""
        super().pause_writing()
        self._wait(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        """Waits for the next request, and forgets what has arrived of this one and was not read."""
        self.cycle.body.clear()
        self._expect_request()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP, if nothing was answered yet. Nothing is logged, since anybody can send it."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response("this is not an HTTP/1.1 request; questions go to POST /invocations\n")
        else:
            self.transport.abort()
        if self.cycle is not None:  # a request that was being answered ends without an answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the client."""
        if self.end is not None:
            self.end.cancel()
        super().connection_lost(exc)


PATIENCE = 1.0  # seconds that a client may take for its answer while others wait for its room


class EvictedError(TimeoutError):
    """The server needs this client's room in memory for others."""


class Holding:
    """A holding is what one client makes the server keep in memory, and until when."""

    def __init__(self, until: asyncio.Timeout) -> None:
        self.until = until
        self.since = time.monotonic()
        self.size = 0
        self.evicted = False


class HeldBytes:
    """Counts the bytes of all questions that are being read, or of all answers that are being sent."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.holdings: list[Holding] = []

    @asynccontextmanager
    async def holding(self, seconds: float) -> AsyncIterator[Holding]:
        """Counts what is held for a client within the block, and ends the block after some seconds.

        Raises:
            EvictedError: others needed the room.
            TimeoutError: the time is over.
        """
        holding = Holding(asyncio.timeout(seconds))
        self.holdings.append(holding)
        try:
            async with holding.until:
                yield holding
        except TimeoutError as error:
            raise (EvictedError() if holding.evicted else error) from None
        finally:
            self.holdings.remove(holding)

    def grow(self, holding: Holding, size: int) -> None:
        """Notes how much is held now; if all is too much, the client that has held most for longest makes way."""
        holding.size = size
        while self._excess() > 0:
            self._evict(self._still_held())

    async def room(self) -> None:
        """Waits until there is room for more; a client that holds something for longer than it needs makes way."""
        while self._excess() > 0:
            late = [one for one in self._still_held() if time.monotonic() - one.since > PATIENCE]
            if late:
                self._evict(late)
            else:
                await asyncio.sleep(PATIENCE / 20)

    def _still_held(self) -> list[Holding]:
        return [one for one in self.holdings if not one.evicted and not one.until.expired()]

    def _excess(self) -> int:
        return sum(one.size for one in self._still_held()) - self.most

    def _evict(self, some: list[Holding]) -> None:
        now = time.monotonic()
        slowest = max(some, key=lambda one: one.size * (now - one.since))
        slowest.evicted = True
        slowest.until.reschedule(0)
