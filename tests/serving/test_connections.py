"""Tests that slow clients keep nobody waiting, and that whatever is not HTTP is refused silently."""

from __future__ import annotations

import json
import random
import resource
import signal
import socket
import struct
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from questions import JSON, PICTURES
from served import ROOT, Server, running
from untrained import finished_folder

from aemodels.models.base import GenerativeModel
from aemodels.serving.answers import Question, answer
from aemodels.serving.connections import HEAD_SECONDS, MOST_CONNECTIONS

LONGEST = 64_000 * 24  # bytes: nearly the longest body that a model of 8 x 8 images takes
PROMPTLY = HEAD_SECONDS / 2  # who waits for a slow client waits at least HEAD_SECONDS


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(model_folder, tmp_path_factory.mktemp("server")) as server:
        yield server


# ---------------------------------------------------------------- slow ones


HALF_A_HEAD = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Ty"
HEAD = f"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\n".encode()
LONG = HEAD + f"Content-Length: {LONGEST}\r\n\r\n".encode()
ASKS_FOR_MUCH = json.dumps({"params": {"mode": "generate", "n": 1000}}).encode()
MUCH = HEAD + f"Content-Length: {len(ASKS_FOR_MUCH)}\r\n\r\n".encode() + ASKS_FOR_MUCH


def connect(server: Server, *, buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(20)
    client.connect(("127.0.0.1", server.port))
    return client


def half_a_head(server: Server) -> socket.socket:
    client = connect(server)
    client.sendall(HALF_A_HEAD)
    return client


def half_a_body(server: Server) -> socket.socket:
    client = connect(server)
    client.sendall(LONG + b" " * 100)
    return client


def idle(server: Server) -> socket.socket:
    client = connect(server)
    client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in client.recv(1000)
    return client


def silent(server: Server) -> socket.socket:
    return connect(server)


def leaves_its_answer(server: Server) -> socket.socket:
    client = connect(server, buffer=4096)
    client.sendall(MUCH)
    assert client.recv(1) == b"H"
    return client


def nearly_all_of_a_body(server: Server) -> socket.socket:
    client = connect(server)
    with suppress(OSError):  # it may have to make way meanwhile
        client.sendall(LONG + b" " * (LONGEST - 1))
    return client


def drip(clients: list[socket.socket], what: bytes) -> None:
    """Sends one more byte of each client whose connection the server has not closed."""
    for client in clients:
        with suppress(OSError):
            client.sendall(what)


def asks_like_anybody(server: Server, model: GenerativeModel) -> None:
    """Checks that a question is answered in time, whatever other clients do."""
    started = time.perf_counter()
    assert server.send(None, method="GET", path="/ping") == (200, "\n")
    assert time.perf_counter() - started < PROMPTLY
    started = time.perf_counter()
    told = server.ask(inputs=PICTURES.tolist())
    assert time.perf_counter() - started < PROMPTLY
    np.testing.assert_allclose(told, answer(model, PICTURES, Question()), atol=1e-6)


KINDS: dict[str, list[Callable[[Server], socket.socket]]] = {
    "mixed": [half_a_head, half_a_body, idle],
    "half heads": [half_a_head],
    "half bodies": [half_a_body],
    "silent": [silent],
}


@pytest.mark.parametrize("kind", KINDS)
def test_slow_clients_keep_nobody_waiting(server: Server, model: GenerativeModel, kind: str) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(KINDS[kind][i % len(KINDS[kind])](server)) for i in range(300)]
        for _ in range(3):
            asks_like_anybody(server, model)
            drip(clients, b" ")


def test_slow_bodies_do_not_fill_the_memory(server: Server, model: GenerativeModel) -> None:
    """Together the bodies take 460 MB."""
    asks_like_anybody(server, model)
    before = server.memory()
    with ExitStack() as stack:
        for i in range(300):
            stack.enter_context(nearly_all_of_a_body(server))
            if i % 50 == 0:
                asks_like_anybody(server, model)
        asks_like_anybody(server, model)
        assert server.memory() - before < 120e6


@pytest.mark.slow
def test_answers_that_nobody_takes_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Each answer takes 15 MB, of which the system holds up to 4."""
    model = finished_folder(tmp_path / "model", (1, 28, 28))
    with running(model, tmp_path) as server, ExitStack() as stack:
        server.send(ASKS_FOR_MUCH)
        before = server.memory()
        for _ in range(30):
            stack.enter_context(leaves_its_answer(server))
        assert server.memory() - before < 160e6
        assert server.send(ASKS_FOR_MUCH).status == 200


def test_more_clients_than_it_has_room_for_make_way(server: Server, model: GenerativeModel) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(half_a_head(server))
        for _ in range(MOST_CONNECTIONS + 50):
            stack.enter_context(silent(server))
        asks_like_anybody(server, model)
        first.settimeout(2)
        with suppress(ConnectionResetError):  # as it is where the server had not yet read all
            assert first.recv(1) == b""


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets the tests have as many open files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_burst_of_clients_takes_no_more_files_than_there_are(server: Server, model: GenerativeModel) -> None:
    """Clients gather while the server is stopped, as they do while it is busy.

    The fixture checks that nothing is logged.
    """
    with ExitStack() as stack:
        server.process.send_signal(signal.SIGSTOP)
        for _ in range(1500):
            client = stack.enter_context(closing(socket.socket()))
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
        server.process.send_signal(signal.SIGCONT)
        asks_like_anybody(server, model)


@pytest.mark.slow
def test_a_client_that_asks_and_asks_and_takes_no_answer_is_let_go(server: Server) -> None:
    """The answers to requests in a row wait until the client takes the first of them."""
    with connect(server, buffer=4096) as client:
        client.sendall(MUCH * 20)  # far more answers than the system holds
        time.sleep(2 * HEAD_SECONDS)
        drip([client], b"G")  # what is sent to a closed connection is lost at first
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(b"G")


def test_a_client_that_hangs_up_during_the_work_is_no_news(server: Server, model: GenerativeModel) -> None:
    """The fixture checks that standard error is empty."""
    images = json.dumps({"inputs": np.full((1000, 8, 8), 0.5).tolist()}).encode()
    for _ in range(3):
        with connect(server) as client:
            client.sendall(HEAD + f"Content-Length: {len(images)}\r\n\r\n".encode() + images)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    asks_like_anybody(server, model)


@pytest.mark.slow
def test_half_a_head_is_waited_for_only_so_long(server: Server) -> None:
    """The limit is for the first head of a connection and for the next. A byte now and then gives no more time."""
    with half_a_head(server) as new, idle(server) as used:
        used.sendall(HALF_A_HEAD)
        started = time.monotonic()
        while time.monotonic() - started < HEAD_SECONDS + 2:
            drip([new, used], b"x")
            time.sleep(0.5)
        for client in (new, used):
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                client.sendall(b"x")


@pytest.mark.slow
def test_a_refused_body_may_be_sent_to_its_end(server: Server) -> None:
    """Many clients read an answer only after that."""
    with connect(server) as client:
        client.sendall(HEAD + b"Content-Length: 24000000\r\n\r\n")
        for _ in range(24):
            client.sendall(b" " * 1_000_000)
            time.sleep((HEAD_SECONDS + 2) / 24)
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


# ---------------------------------------------------------------- what is not HTTP


def garbage(dice: random.Random) -> bytes:
    """Makes bytes that a broken client or another protocol may send."""
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    rules: list[Callable[[], bytes]] = [
        lambda: dice.randbytes(dice.randrange(1, 3000)),
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(506),  # TLS
        lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        lambda: b"GET /ping HTTP/9.9\r\nHost: x\r\n\r\n",
        lambda: b"GET /ping\r\n\r\n",
        lambda: b"GET  /ping HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: b"GET /p\xc3\xafng HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: b"GET /%ff%00/../ping HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: b"GET /ping HTTP/1.1\r\n\r\n",
        lambda: b"GET /ping HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        lambda: b"GET /ping HTTP/1.1\r\nHost: x\r\nA: " + b"b" * dice.randrange(60_000, 90_000),
        lambda: b"GET /ping HTTP/1.1\r\nHost: x\r\n bad : header\r\n\r\n",
        lambda: b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        lambda: HEAD + b"Content-Length: -1\r\n\r\n",
        lambda: HEAD + b"Content-Length: many\r\n\r\n",
        lambda: HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        lambda: HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nabcde",
        lambda: HEAD + b"Content-Length: " + b"9" * dice.choice([20, 30, 5000]) + b"\r\n\r\n",
        lambda: HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc",
        lambda: HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        lambda: (
            chunked + dice.choice([b"xyz\r\n", b"-1\r\n", b"5\r\nab", b"2\r\nabcdef\r\n", b"\r\n", dice.randbytes(50)])
        ),
        lambda: HEAD.replace(JSON.encode(), b"text/csv") + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab\r\nzz\r\n\r\n",
        lambda: b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" + dice.randbytes(100) + b"\r\n\r\n",
        lambda: b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * dice.randrange(2, 50),
        lambda: HEAD[: dice.randrange(len(HEAD))],
        lambda: dice.choice([b"HEAD", b"TRACE", b"CONNECT", b"BREW", b"\x00"]) + b" /ping HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    return dice.choice(rules)()


def all_that_comes(server: Server, sent: bytes) -> bytes:
    """Returns what the server answers, until it or the client has nothing more to send."""
    came = b""
    with closing(connect(server)) as client:
        try:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(2**16):
                came += piece
        except OSError:  # refused before all of it was sent
            pass
    return came


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_what_is_not_http_is_refused_in_silence(server: Server, model: GenerativeModel, count: int) -> None:
    """The fixture checks that standard error is empty."""
    dice = random.Random(count)
    for _ in range(count):
        sent = garbage(dice)
        came = all_that_comes(server, sent)
        statuses = [line.split()[1] for line in came.splitlines() if line.startswith(b"HTTP/1.1 ")]
        assert all(status[:1] in (b"1", b"2", b"4") for status in statuses), (sent, came)
    assert b" 400 " in all_that_comes(server, b"not HTTP\r\n\r\n")
    asks_like_anybody(server, model)


def test_private_parts_of_uvicorn_are_what_they_were_when_this_was_tried() -> None:
    """aemodels/serving/connections.py uses them. A release that differs is tried before the bounds admit it."""
    from uvicorn.protocols.http import h11_impl
    from uvicorn.server import ServerState

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {(one := Requirement(text)).name: str(one.specifier) for text in project["dependencies"]}
    assert bounds["uvicorn"] == "<0.55,>=0.54"
    assert {"connection_made", "connection_lost", "on_response_complete", "send_400_response"} < vars(
        h11_impl.H11Protocol
    ).keys()
    protocol = set(h11_impl.H11Protocol.__init__.__code__.co_names)
    assert {"connections", "transport", "cycle", "conn", "loop", "app_state"} <= protocol
    cycle = set(h11_impl.RequestResponseCycle.__init__.__code__.co_names)
    assert {"disconnected", "more_body", "message_event", "response_started", "response_complete"} <= cycle
    assert ServerState().connections == set()
