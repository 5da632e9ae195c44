"""Tests the served model: it answers like the library, refuses wrong questions in words, and stays up."""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from questions import JSON, PICTURES, Reply, refused, wrong_question
from served import Server, running

from aemodels.models.base import GenerativeModel
from aemodels.serving.answers import Question, answer
from aemodels.serving.server import MOST_AT_ONCE

ALLOWED_GROWTH = 400e6  # bytes: a question of 25 MB is read, and an answer of as much is written


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(model_folder, tmp_path_factory.mktemp("server")) as server:
        yield server


# ---------------------------------------------------------------- right questions


def test_it_answers_like_the_library(server: Server, model: GenerativeModel) -> None:
    for name, mode in zip(("inputs", "instances") * 2, ("reconstruct", "embed", "score", "reconstruct"), strict=True):
        told = server.ask(**{name: PICTURES.tolist(), "params": {"mode": mode}})
        np.testing.assert_allclose(told, answer(model, PICTURES, Question(mode)), atol=1e-6)
    np.testing.assert_array_equal(server.ask(inputs=PICTURES[:, 0].tolist()), server.ask(inputs=PICTURES.tolist()))
    codes = answer(model, PICTURES, Question("embed"))
    frame = {"columns": ["a", "b", "c"], "index": list(range(5)), "data": codes.tolist()}
    told = server.ask(dataframe_split=frame, params={"mode": "decode"})
    np.testing.assert_allclose(told, answer(model, codes, Question("decode")), atol=1e-6)
    for nothing in ({}, {"inputs": []}):
        told = server.ask(**nothing, params={"mode": "generate", "n": 3, "seed": 7})
        np.testing.assert_allclose(told, answer(model, None, Question("generate", 3, 7)), atol=1e-6)


def test_an_answer_says_how_pixels_were_read(server: Server) -> None:
    """JavaScript writes 1 for 1.0. Such black-and-white images are not silently read as nearly black ones."""
    floats = (PICTURES > 127).astype(float).tolist()
    integers = (PICTURES > 127).astype(int).tolist()

    def score(images: Any, **params: str) -> Any:
        return json.loads(server.send(json.dumps({"inputs": images, "params": {"mode": "score"} | params})).text)

    assert score(floats)["range"] == "unit"
    assert score(PICTURES.tolist())["range"] == "bytes"
    assert "is 1 white, or nearly black?" in score(integers)["error"]
    assert score(integers, range="unit") == score(floats)
    dark = score(integers, range="bytes")
    assert dark["range"] == "bytes"
    assert dark["predictions"] != score(floats)["predictions"]
    for question in ({"inputs": [[0, 0, 1]], "params": {"mode": "decode"}}, {"params": {"mode": "generate", "n": 1}}):
        body = json.dumps(question)
        assert list(json.loads(server.send(body).text)) == ["predictions"]


def test_a_page_whose_name_leads_to_this_machine_is_refused(server: Server) -> None:
    question, kind = json.dumps({"inputs": PICTURES.tolist()}), {"Content-Type": JSON}
    names = {f"10.elsewhere.example:{server.port}": 403, "127.0.0.1.example": 403}
    for name, status in (names | {"LOCALHOST:80": 200, "127.0.0.1": 200, "[::1]:1": 200}).items():
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            connection.request("POST", "/invocations", question, kind | {"Host": name})
            assert connection.getresponse().status == status, name


def test_it_says_that_it_is_there(server: Server) -> None:
    for path in ("/ping", "/health"):
        assert server.send(None, method="GET", path=path) == (200, "\n")
    assert re.fullmatch(r"\d+\.\d+.*", server.send(None, method="GET", path="/version").text)


def test_mlflow_asks_it_as_its_own_server(server: Server, model: GenerativeModel) -> None:
    """The server takes what MLflow's clients send to a scoring server."""
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient("127.0.0.1", server.port)  # type: ignore[no-untyped-call]
    client.ping()
    codes = answer(model, PICTURES, Question("embed"))
    told = client.invoke(PICTURES, {"mode": "embed"}).get_predictions(predictions_format="ndarray")
    np.testing.assert_allclose(told, codes, atol=1e-6)
    told = client.invoke(codes, {"mode": "decode"}).get_predictions(predictions_format="ndarray")
    np.testing.assert_allclose(told, answer(model, codes, Question("decode")), atol=1e-6)


def test_many_ask_at_once_and_seeds_hold(server: Server, model: GenerativeModel) -> None:
    expected = [answer(model, None, Question("generate", 2, seed)) for seed in range(4)]

    def draw(seed: int) -> None:
        np.testing.assert_allclose(
            server.ask(params={"mode": "generate", "n": 2, "seed": seed}), expected[seed], atol=1e-6
        )

    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        list(pool.map(draw, list(range(4)) * 5))


def test_ping_is_answered_while_the_model_works(server: Server) -> None:
    question = json.dumps({"params": {"mode": "generate", "n": 1000}}).encode()
    with ThreadPoolExecutor(6) as pool:
        busy = [pool.submit(server.send, question) for _ in range(12)]
        slowest = 0.0
        while not all(one.done() for one in busy):
            started = time.perf_counter()
            assert server.send(None, method="GET", path="/ping").status == 200
            slowest = max(slowest, time.perf_counter() - started)
    assert {one.result().status for one in busy} == {200}
    assert 0 < slowest < 2


# ---------------------------------------------------------------- wrong questions


HUGE = b"1" + b"0" * 400
BY_HAND = {
    "nothing": (b"", "not JSON"),
    "truncated": (b'{"inputs": [[1, 2', "not JSON: Expecting ',' delimiter at line 1, column 18"),
    "no object": (b"[1, 2]", "send a JSON object"),
    "not UTF-8": (b'{"inputs": "\xff"}', "not UTF-8"),
    "deep": (b'{"inputs": ' + b"[" * 200_000, "too many values; send at most 1000 images"),
    "deep lists": (b'{"inputs": ' + b"[" * 10_000, "nested too deeply"),
    "deeper than arrays": (b'{"inputs": ' + b"[" * 100 + b"]" * 100 + b"}", "they are not one array"),
    "many digits": (b'{"inputs": [' + b"9" * 5000 + b"]}", "too many digits"),
    "NaN": (b'{"inputs": [[NaN]]}', "NaN is no number"),
    "infinite": (b'{"inputs": [[-Infinity]]}', "-Infinity is no number"),
    "overflow": (b'{"inputs": [[1e999, 1, 2]], "params": {"mode": "decode"}}', "codes: 1 values are NaN or infinite"),
    "huge integer": (b'{"inputs": [[' + HUGE + b', 0.5, 1]], "params": {"mode": "decode"}}', "codes: "),
    "huge integers": (b'{"inputs": [[' + HUGE + b", 1, " + HUGE + b']], "params": {"mode": "decode"}}', "codes: "),
    "huge float": (b'{"inputs": [[1e300, 0, 0]], "params": {"mode": "decode"}}', "codes: a value is too large"),
    "text": (b'{"inputs": [["a", "b"]]}', "inputs: send lists of numbers"),
    "texts of different length": (
        b'{"inputs": ["' + b"x" * 10**6 + b'"' + b',"y"' * 1000 + b"]}",
        "inputs: send lists",
    ),
    "text alone": (b'{"inputs": "cat"}', "inputs: send lists of numbers"),
    "null": (b'{"inputs": [[null, 1]]}', "inputs: send lists of numbers"),
    "objects": (b'{"instances": [{"a": 1}]}', "instances: send lists of numbers"),
    "a number alone": (b'{"inputs": 3}', "inputs: send lists of numbers"),
    "ragged": (b'{"inputs": [[[1], [1, 2]]]}', "they are not one array"),
    "no images": (b'{"inputs": []}', "images of shape (0,)"),
    "shape": (b'{"inputs": [[[1, 2], [3, 4]]]}', "images of shape (1, 2, 2): this model takes (N, 1, 8, 8)"),
    "codes": (
        b'{"inputs": [[1, 2]], "params": {"mode": "decode"}}',
        "shape (1, 2): send codes of shape (N, 3)",
    ),
    "pixels": (
        json.dumps({"inputs": (PICTURES.astype(int) * 2).tolist()}).encode(),
        "integer pixels run from 0 to 255",
    ),
    "mode": (b'{"inputs": [], "params": {"mode": "draw"}}', "mode=draw: unknown"),
    "mode without inputs": (b'{"params": {"mode": "genrate"}}', "mode=genrate: unknown; choose one of"),
    "long mode": (b'{"inputs": [], "params": {"mode": "' + b"m" * 10**5 + b'"}}', "mode=mmm"),
    "lone surrogate": (b'{"inputs": [], "params": {"mode": "\\ud800"}}', "unknown"),
    "mode of another type": (b'{"inputs": [], "params": {"mode": 3}}', "params.mode: must be a text"),
    "n of another type": (b'{"params": {"mode": "generate", "n": "3"}}', "params.n: must be a whole number"),
    "true n": (b'{"params": {"mode": "generate", "n": true}}', "params.n: must be a whole number"),
    "half n": (b'{"params": {"mode": "generate", "n": 0.5}}', "params.n: must be a whole number"),
    "negative n": (b'{"params": {"mode": "generate", "n": -1}}', "n=-1: from 1 to 1000 images"),
    "n": (b'{"params": {"mode": "generate", "n": 1000000000}}', "n=1000000000: from 1 to 1000 images"),
    "huge n": (b'{"params": {"mode": "generate", "n": ' + HUGE + b"}}", "n=1000"),
    "seed": (b'{"params": {"mode": "generate", "seed": -1}}', "seed=-1: must be"),
    "huge seed": (b'{"params": {"mode": "generate", "seed": ' + HUGE + b"}}", "seed=1000"),
    "param": (b'{"inputs": [], "params": {"modus": "embed"}}', "params.modus: unknown; there are mode, n, seed"),
    "long param": (b'{"inputs": [], "params": {"' + b"p" * 10**5 + b'": 1}}', "params.ppp"),
    "params": (b'{"inputs": [], "params": [1]}', "params: send an object"),
    "no inputs": (b"{}", "send exactly one of inputs, instances, dataframe_split"),
    "two inputs": (b'{"inputs": [], "instances": []}', "send exactly one of"),
    "another key": (b'{"input": []}', "input: unknown; send one of inputs"),
    "a frame without data": (b'{"dataframe_split": {"columns": []}}', "dataframe_split: send lists"),
    "a frame of another type": (b'{"dataframe_split": [[1]]}', "dataframe_split: send lists"),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_a_wrong_question_is_explained(server: Server, case: str) -> None:
    body, says = BY_HAND[case]
    assert says in refused(server.send(body), 400, 413)


def test_a_question_that_is_too_large_is_refused_before_it_takes_memory(server: Server) -> None:
    before = server.memory()
    nulls = bytes(100_000_000)
    assert "the body is over" in refused(server.send(nulls), 413)
    chunks = repeat(nulls[:1_000_000], 100)
    assert "the body is over" in refused(server.send(chunks, encode_chunked=True), 413)
    lists = b'{"inputs": [' + b"[]," * 300_000 + b"[]]}"
    assert "too many values; send at most 1000 images" in refused(server.send(lists), 413)
    many = json.dumps({"inputs": [[0, 0, 0]] * 1001, "params": {"mode": "decode"}}).encode()
    assert "1001 inputs; send at most 1000" in refused(server.send(many), 413)
    assert server.memory() - before < 50e6


def test_another_address_method_or_type_is_refused(server: Server) -> None:
    assert "no such address" in refused(server.send(None, method="GET", path="/docs"), 404)
    assert "no such address" in refused(server.send(None, method="GET", path="/../../etc/passwd"), 404)
    assert "another method; questions are sent by POST" in refused(server.send(None, method="GET"), 405)
    body = json.dumps({"inputs": PICTURES.tolist()}).encode()
    for kind in ("text/csv", "text/plain", "application/vnd.apache.parquet", "", f"{JSON}; charset=latin-1", "a;b;c"):
        assert "send JSON" in refused(server.send(body, kind), 415)
    assert server.send(body, f"{JSON}; charset=UTF-8").status == 200


@contextmanager
def half_a_body(server: Server) -> Iterator[None]:
    """Sends a request of which the server still waits for the rest."""
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + b'{"inputs"')
        yield


def comes_to(server: Server, status: int) -> Reply:
    """Returns the reply to a right question, once the server has seen who came and went."""
    body, limit = json.dumps({"inputs": PICTURES.tolist()}).encode(), time.monotonic() + 10
    while (reply := server.send(body)).status != status and time.monotonic() < limit:
        time.sleep(0.05)
    assert reply.status == status
    return reply


def test_a_body_that_ends_early_does_no_harm(server: Server) -> None:
    for _ in range(3 * MOST_AT_ONCE):
        with half_a_body(server):
            pass
    comes_to(server, 200)


# ---------------------------------------------------------------- thousands of them


def besiege(server: Server, count: int, seed: int) -> dict[int, int]:
    """Sends wrong questions from several threads, and returns how often each status came."""
    dice = random.Random(seed)
    questions = [wrong_question(dice) for _ in range(count)]
    counts: dict[int, int] = {}
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        for question, reply in zip(questions, pool.map(lambda q: server.send(*q), questions), strict=True):
            assert 400 <= reply.status < 500, (question, reply)
            refused(reply)
            counts[reply.status] = counts.get(reply.status, 0) + 1
    return counts


@pytest.mark.parametrize("count", [400, pytest.param(5000, marks=pytest.mark.slow)])
def test_it_stays_up_whatever_is_sent(server: Server, model: GenerativeModel, count: int) -> None:
    besiege(server, 100, seed=0)
    before = server.memory()
    besiege(server, count, seed=count)
    assert server.memory() - before < 50e6
    told = server.ask(inputs=PICTURES.tolist())
    np.testing.assert_allclose(told, answer(model, PICTURES, Question()), atol=1e-6)


@pytest.mark.slow
def test_it_stays_up_when_many_send_too_much(server: Server, model: GenerativeModel) -> None:
    """Whoever is not told to come back is answered, and memory stays in bounds."""
    before = server.memory()
    body = bytes(100_000_000)
    many = json.dumps({"params": {"mode": "generate", "n": 1000}}).encode()
    with ThreadPoolExecutor(4 * MOST_AT_ONCE) as pool:
        large = [pool.submit(server.send, body) for _ in range(20)]
        busy = [pool.submit(server.send, many) for _ in range(100)]
    assert {one.result().status for one in large} <= {413, 503}
    assert {200} <= {one.result().status for one in busy} <= {200, 503}
    assert server.memory() - before < ALLOWED_GROWTH
    told = server.ask(inputs=PICTURES.tolist())
    np.testing.assert_allclose(told, answer(model, PICTURES, Question()), atol=1e-6)
