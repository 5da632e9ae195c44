"""Serves a model over HTTP, with the protocol of MLflow's scoring server; errors are answered in plain words.

MLflow's own server answers an error with a stack trace, and runs the source that a registered model carries. This one
runs the installed library and reads nothing of the model but config.json and weights.safetensors.

POST /invocations  {"inputs": [...], "params": {"mode": "embed"}} -> {"predictions": [...]}, or {"error": "..."}
                   Where images were sent, the answer also says how their pixels were read: "range": "unit" or "bytes"
                   "instances" is the same as "inputs"; a data frame is {"dataframe_split": {"data": [...]}}
GET  /ping, /health, /version
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from itertools import chain
from typing import Any, NamedTuple, NoReturn

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from aemodels.config import UserError
from aemodels.serving.answers import MODES, USED, Question, as_numbers
from aemodels.serving.connections import BACKLOG, Connection, EvictedError, HeldBytes
from aemodels.serving.model import Model

PORT = 5001
MOST_IMAGES = 1000  # in one request
MOST_VALUES = 2**20  # pixels in one request or answer; as JSON they take 25 MB, and 100 MB while they are read
LONGEST_VALUE = 24  # characters: a float and its comma
LONGEST_MESSAGE = 300  # characters: a message may quote what was sent
MOST_AT_ONCE = 8  # requests that wait for their answer; one is computed at a time
MOST_HELD = 4  # longest bodies that all requests together may take in memory, and as much for all answers
BODY_SECONDS = 30.0  # for the whole body to arrive
ANSWER_SECONDS = 60.0  # for the answer to be taken
PIECE = 2**16  # bytes of an answer that are handed on at once
AGAIN = {"Retry-After": "1"}
NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
FORMATS = ("inputs", "instances", "dataframe_split")


class Limits(NamedTuple):
    """Holds how much one request may contain, for images of a certain size."""

    images: int
    values: int
    bytes: int


def limits_of(model: Model) -> Limits:
    """Returns how much one request to a model may contain; it is one image at least, however large."""
    pixels = math.prod(model.network.image_shape)
    images = max(1, min(MOST_IMAGES, MOST_VALUES // pixels))
    values = images * pixels
    return Limits(images, values, values * LONGEST_VALUE + 2**16)


def listen(host: str, port: int) -> socket.socket:
    """Opens the server's socket; port 0 takes a free port.

    Raises:
        UserError: the address cannot be used.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: a port is a number from 1 to 65535")
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or "no such host").partition(" (")[0]
        raise UserError(f"--host {host} --port {port}: cannot be used ({reason}); give another one") from None
    # asyncio sets it only where it made the socket itself; without it an answer waits 40 ms on a connection in use
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def is_local(listener: socket.socket) -> bool:
    """Tells whether this machine alone reaches the socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(model: Model, listener: socket.socket, host: str) -> None:
    """Answers until it is interrupted, then ends what it began; unexpected errors go to stderr with their traces."""
    config = uvicorn.Config(
        create_app(model, ("localhost", host.lower()) if is_local(listener) else None),
        backlog=BACKLOG,
        http=Connection,  # of h11, which discards the rest of a body that is too long; the limits were tried with it
        ws="none",
        lifespan="off",
        log_level="error",  # any client can bring about warnings
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    with suppress(KeyboardInterrupt):  # the usual end, after which uvicorn sends itself the signal again
        uvicorn.Server(config).run(sockets=[listener])


def create_app(model: Model, names: tuple[str, ...] | None = None) -> FastAPI:
    """Makes the routes; one thread computes, with all of torch's own threads, and the others keep answering.

    Args:
        names: the only names under which it answers, beside addresses of this machine; None for every name.
    """
    app, limits, executor = FastAPI(openapi_url=None), limits_of(model), ThreadPoolExecutor(1)
    places, turn = asyncio.Semaphore(MOST_AT_ONCE), asyncio.Lock()
    received, sent = HeldBytes(MOST_HELD * limits.bytes), HeldBytes(MOST_HELD * limits.bytes)

    async def invocations(request: Request) -> Response:
        if names is not None:
            _check_name(request, names)
        _check_type(request)
        body = await _read_body(request, limits, received)
        if places.locked():
            raise HTTPException(503, "too many requests at once; try again", AGAIN)
        async with places, turn:
            await sent.room()  # an answer takes memory, so it is made when there is room for it
            text = await asyncio.get_running_loop().run_in_executor(executor, respond, model, limits, body)
        return Answer(text, sent)

    async def ping(_request: Request) -> Response:
        return _json(200, "\n")

    async def mlflow_version(_request: Request) -> Response:
        return _json(200, version("mlflow"))  # MLflow's clients ask for the version of MLflow

    app.add_route("/invocations", invocations, methods=["POST"])
    app.add_route("/ping", ping)
    app.add_route("/health", ping)
    app.add_route("/version", mlflow_version)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    return app


class Answer(Response):
    """An answer is sent as fast as its client takes it; when its time or its room is over, the connection is closed."""

    def __init__(self, text: str, held: HeldBytes) -> None:
        super().__init__(text, 200, NO_SNIFFING, "application/json")
        self.held = held

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Sends the answer in pieces, each of which waits until the one before it is on its way."""
        try:
            async with self.held.holding(ANSWER_SECONDS) as holding:
                holding.size = len(self.body)
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                for start in range(0, len(self.body), PIECE):
                    piece, more = self.body[start : start + PIECE], start + PIECE < len(self.body)
                    await send({"type": "http.response.body", "body": piece, "more_body": more})
                    await asyncio.sleep(0)  # where the client has hung up, this becomes known before the next piece
        except TimeoutError:
            scope["state"]["connection"].transport.abort()
            await asyncio.sleep(0)  # the loop has to come round: until then uvicorn would wait for more of the answer


def _json(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, NO_SNIFFING | (headers or {}), "application/json")


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {
        404: "no such address; questions go to /invocations",
        405: "this address takes another method; questions are sent by POST",
    }
    message = words.get(error.status_code, error.detail)[:LONGEST_MESSAGE]
    return _json(error.status_code, json.dumps({"error": message}), dict(error.headers or {}))


async def _failed(_request: Request, _error: Exception) -> Response:
    return _json(500, json.dumps({"error": "the server failed on this request; its log says why"}))


# ---------------------------------------------------------------- reading


def _check_name(request: Request, names: tuple[str, ...]) -> None:
    """Refuses requests under other names: a page elsewhere may have a name that leads to this machine.

    The browser of that page would take the model for the page's own server, and let the page read its answers.
    """
    try:
        name = request.url.hostname or ""
        known = name in names or ipaddress.ip_address(name).is_loopback
    except ValueError:  # no address
        known = False
    if not known:
        raise HTTPException(
            403, f"this model answers its own machine alone, at {' or '.join(names)}; give serve a --host"
        )


def _check_type(request: Request) -> None:
    kind, *options = request.headers.get("content-type", "").lower().replace(" ", "").split(";")
    if kind != "application/json" or any(option not in ("", "charset=utf-8") for option in options):
        raise HTTPException(415, "send JSON: Content-Type: application/json, in UTF-8")


async def _read_body(request: Request, limits: Limits, held: HeldBytes) -> bytearray:
    """Reads the body, and no further than the limit, whether its length was announced or not.

    Raises:
        HTTPException: it is too long, too slow or ends early.
    """
    too_long = HTTPException(
        413, f"the body is over {limits.bytes:,} bytes; send fewer images, at most {limits.images}, or integer pixels"
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limits.bytes:
        raise too_long
    body = bytearray()
    try:
        async with held.holding(BODY_SECONDS) as holding:
            async for part in request.stream():
                if len(body) + len(part) > limits.bytes:
                    raise too_long
                body += part
                held.grow(holding, len(body))
    except EvictedError:
        raise HTTPException(503, "the body came too slowly while many others wait; try again", AGAIN) from None
    except TimeoutError:
        raise HTTPException(408, f"the body took over {BODY_SECONDS:g} seconds; send fewer images") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body ended early") from None
    return body


def _parse(body: bytearray, limits: Limits) -> dict[str, Any]:
    if sum(map(body.count, (b",", b"[", b"{"))) > 2 * limits.values + 1000:  # before they take memory
        raise HTTPException(413, f"too many values; send at most {limits.images} images in one request")
    try:
        question = json.loads(body.decode(), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise HTTPException(400, message) from None
    except UnicodeDecodeError:
        raise HTTPException(400, "not JSON: the body is not UTF-8") from None
    except RecursionError:
        raise HTTPException(400, "not JSON that this server reads: nested too deeply") from None
    except ValueError:
        raise HTTPException(400, "not JSON that this server reads: a number has too many digits") from None
    if not isinstance(question, dict):
        raise HTTPException(400, 'send a JSON object, such as {"inputs": [...], "params": {"mode": "embed"}}')
    return question


def _no_constant(name: str) -> NoReturn:
    raise HTTPException(400, f"not JSON: {name} is no number")


def _read_params(given: Any) -> Question:
    """Reads the parameters of a request, which must have the right types, as nothing is converted."""
    if not isinstance(given, dict | None):
        raise HTTPException(400, 'params: send an object, such as {"mode": "embed"}')
    defaults = Question()._asdict()
    for key, value in (given or {}).items():
        if key not in defaults:
            raise HTTPException(400, f"params.{key[:40]}: unknown; there are {', '.join(defaults)}")
        if type(value) is not type(defaults[key]):
            expected = "a text" if isinstance(defaults[key], str) else "a whole number"
            raise HTTPException(400, f"params.{key}: must be {expected}")
    question = Question(**(given or {}))
    if question.mode in USED:  # an unknown one is refused later
        for key in given or {}:
            if key not in ("mode", *USED[question.mode]) and question._asdict()[key] != defaults[key]:
                raise HTTPException(400, f"params.{key}: has no effect with mode={question.mode}; leave it out")
    return question


def _read_inputs(question: dict[str, Any], needed: bool) -> Any:
    """Returns the inputs of a request, which are nested lists of numbers and nothing else.

    Texts are refused here, as numpy would give each of them the room of the longest.
    """
    if unknown := question.keys() - {*FORMATS, "params"}:
        raise HTTPException(400, f"{min(unknown)[:40]}: unknown; send one of {', '.join(FORMATS)}, and params")
    given = [name for name in FORMATS if name in question]
    if len(given) > 1 or (needed and not given):
        raise HTTPException(400, f"send exactly one of {', '.join(FORMATS)}")
    inputs = question[given[0]] if given else []
    if given == ["dataframe_split"]:
        inputs = inputs.get("data") if isinstance(inputs, dict) else None
    level = [inputs]
    while level and set(map(type, level)) == {list}:
        level = list(chain.from_iterable(level))
    if not isinstance(inputs, list) or not set(map(type, level)) <= {int, float, bool}:
        raise HTTPException(400, f"{given[0]}: send lists of numbers, all of them of the same shape")
    return inputs


# ---------------------------------------------------------------- answering


def respond(model: Model, limits: Limits, body: bytearray) -> str:
    """Returns the answer to a request's body, as JSON.

    Raises:
        HTTPException: the request is wrong; the message says how.
    """
    asked = _parse(body, limits)
    question = _read_params(asked.get("params"))
    inputs = _read_inputs(asked, needed=question.mode in MODES)  # "generate" needs none; other modes are refused below
    if question.mode == "generate":
        if not 1 <= question.n <= limits.images:
            raise HTTPException(400, f"n={str(question.n)[:20]}: from 1 to {limits.images} images in one request")
        if inputs:
            raise HTTPException(400, "mode=generate takes no inputs; leave them out, or send []")
    if len(inputs) > limits.images:
        raise HTTPException(413, f"{len(inputs)} inputs; send at most {limits.images} in one request")
    try:
        if question.mode in MODES:
            inputs = as_numbers(inputs, "codes" if question.mode == "decode" else "images")
        predictions, pixels = model.answer(inputs, question)
    except UserError as error:
        raise HTTPException(400, str(error)) from None
    told = f', "range": "{pixels}"' if pixels else ""
    rows = ", ".join(json.dumps(row.tolist()) for row in predictions)  # one by one, so that other threads get a turn
    return f'{{"predictions": [{rows}]{told}}}'
