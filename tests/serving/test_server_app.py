"""Tests the server in this process: its limits, its socket, and what a client cannot do."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from questions import JSON, PICTURES, Reply, refused
from untrained import finished_folder

from aemodels.config import UserError
from aemodels.serving import server as module
from aemodels.serving.model import Model
from aemodels.serving.server import MOST_AT_ONCE, Limits, create_app, is_local, limits_of, listen


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return Model.open(model_folder)


def call(model: Model, content: Any, raises: bool = False) -> Reply:
    """Sends a request to the app in this process."""

    async def send() -> Reply:
        transport = httpx.ASGITransport(create_app(model), raise_app_exceptions=raises)
        async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
            reply = await client.post("/invocations", content=content, headers={"Content-Type": JSON})
            return Reply(reply.status_code, reply.text)

    return asyncio.run(send())


def test_what_nobody_expected_is_in_the_log_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error in /secret/place.py")

    monkeypatch.setattr(Model, "answer", fail)
    question = json.dumps({"inputs": PICTURES.tolist()})
    status, text = call(model, question)
    assert (status, json.loads(text)) == (500, {"error": "the server failed on this request; its log says why"})
    with pytest.raises(RuntimeError, match="CUDA error"):  # uvicorn logs what passes through
        call(model, question, raises=True)


def test_an_answer_that_is_no_number_is_refused(model: Model) -> None:
    with torch.inference_mode():
        broken = Model(copy.deepcopy(model.network), model.folder)
        for weights in broken.network.parameters():
            weights *= 1e37
    assert "not finite" in refused(call(broken, json.dumps({"inputs": PICTURES.tolist()})), 400)


def test_a_slow_body_is_given_up(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(2)
        yield b"}"

    monkeypatch.setattr(module, "BODY_SECONDS", 0.1)
    assert "the body took over 0.1 seconds" in refused(call(model, slow()), 408)


def test_more_at_once_than_it_takes_are_told_to_come_back(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request takes no place while its body still arrives."""
    freed = threading.Event()
    monkeypatch.setattr(Model, "answer", lambda *_: (np.zeros((1, 1), np.float32), "") if freed.wait(20) else None)
    question = json.dumps({"inputs": PICTURES.tolist()}).encode()

    async def slow() -> AsyncIterator[bytes]:
        while not freed.is_set():
            await asyncio.sleep(0.01)
            yield b" "
        yield question

    async def send() -> list[int]:
        transport = httpx.ASGITransport(create_app(model))
        async with httpx.AsyncClient(transport=transport, base_url="http://local", timeout=20) as client:

            async def ask(content: Any) -> httpx.Response:
                return await client.post("/invocations", content=content, headers={"Content-Type": JSON})

            asked = [asyncio.create_task(ask(slow())) for _ in range(MOST_AT_ONCE)]
            await asyncio.sleep(0.1)
            asked += [asyncio.create_task(ask(question)) for _ in range(MOST_AT_ONCE)]
            await asyncio.sleep(0.5)
            one_more = await ask(question)
            assert one_more.json() == {"error": "too many requests at once; try again"}
            assert one_more.headers["Retry-After"] == "1"
            freed.set()
            return [(await one).status_code for one in asked] + [one_more.status_code]

    statuses = asyncio.run(send())
    assert statuses[MOST_AT_ONCE:] == [200] * MOST_AT_ONCE + [503]
    assert set(statuses[:MOST_AT_ONCE]) <= {200, 503}  # they all end in the same moment


def test_limits_follow_the_size_of_the_images(model: Model) -> None:
    assert limits_of(model) == Limits(1000, 64_000, 64_000 * 24 + 2**16)


def test_it_listens_to_this_machine_alone_unless_told_otherwise() -> None:
    with listen("127.0.0.1", 0) as near, listen("0.0.0.0", 0) as far:
        assert is_local(near)
        assert not is_local(far)
        with pytest.raises(UserError, match=r"cannot be used \(Address already in use\); give another one"):
            listen("127.0.0.1", near.getsockname()[1])
    with pytest.raises(UserError, match="--port 70000: a port is a number"):
        listen("127.0.0.1", 70_000)
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)


def test_no_answer_waits_for_more_on_a_connection_in_use() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("mode", "without_effect"),
    [
        ("embed", {"n": 2, "seed": 1, "label": 0}),
        ("reconstruct", {"n": 1}),
        ("score", {"label": 1}),
        ("decode", {"range": "unit", "n": 1}),
        ("generate", {"range": "bytes"}),
    ],
)
def test_a_parameter_without_effect_is_refused(model: Model, mode: str, without_effect: dict[str, object]) -> None:
    for name, value in without_effect.items():
        question = {"inputs": [], "params": {"mode": mode, name: value}}
        message = f"params.{name}: has no effect with mode={mode}; leave it out"
        assert refused(call(model, json.dumps(question)), 400) == message


def test_inputs_of_a_mode_that_takes_none_are_refused(model: Model) -> None:
    question = {"inputs": [[0, 0, 1]], "params": {"mode": "generate", "n": 1}}
    told = refused(call(model, json.dumps(question)), 400)
    assert told == "mode=generate takes no inputs; leave them out, or send []"
    for nothing in ({}, {"inputs": []}, {"instances": []}):
        assert call(model, json.dumps(nothing | {"params": {"mode": "generate", "n": 1}})).status == 200


@pytest.mark.parametrize("shape", [(3, 12, 20), (1, 20, 12)])
def test_rectangles_are_served(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    model = Model.open(finished_folder(tmp_path / "model", shape), device="cpu")
    images = np.random.default_rng(0).random((5, *shape), np.float32)
    for mode, expected in (("reconstruct", (5, *shape)), ("embed", (5, 3)), ("score", (5,))):
        status, text = call(model, json.dumps({"inputs": images.tolist(), "params": {"mode": mode}}))
        assert (status, np.shape(json.loads(text)["predictions"])) == (200, expected)
    status, text = call(model, json.dumps({"params": {"mode": "generate", "n": 2}}))
    assert (status, np.shape(json.loads(text)["predictions"])) == (200, (2, *shape))
    turned = call(model, json.dumps({"inputs": images.swapaxes(2, 3).tolist()}))
    assert f"takes (N, {shape[0]}, {shape[1]}, {shape[2]})" in refused(turned, 400)
    held = images[:, 0] if shape[0] == 1 else np.moveaxis(images, 1, -1)  # as a person holds them
    assert model.reconstruct(held).shape == held.shape
    assert model.sample(3).shape == (3, *held.shape[1:])
    assert model.like(held, 4).shape == (4, *held.shape[1:])


@pytest.mark.parametrize("shape", [(3, 128, 128), (3, 256, 256), (1, 48, 96)])
def test_a_request_to_a_model_of_large_images_holds_several(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    limits = limits_of(Model.open(finished_folder(tmp_path / "model", shape), device="cpu"))
    assert limits.images >= 5
    assert limits.bytes < 32 * 2**20
