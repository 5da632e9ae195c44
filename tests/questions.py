"""Makes questions to a served model, thousands of wrong ones among them, and reads its replies."""

from __future__ import annotations

import json
import random
import re
from typing import Any, NamedTuple

import numpy as np

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
JSON = "application/json"
LEAKS = re.compile(
    r"Traceback|File \"|\.py\b|line \d+, in |aemodels|torch|numpy|uvicorn|starlette|/(?!invocations|json)"
)


class Reply(NamedTuple):
    """A reply is what the server sent back."""

    status: int
    text: str


def refused(reply: Reply, *statuses: int) -> str:
    """Returns the message of a refusal, which must be short and tell nothing about the inside of the server."""
    assert 400 <= reply.status < 500, reply
    assert not statuses or reply.status in statuses, reply
    message = json.loads(reply.text)["error"]
    assert 0 < len(message) <= 300
    assert not LEAKS.search(message), message
    return str(message)


SCALARS = ["0", "-1", "0.5", "256", "1e5", "1e999", "NaN", "-Infinity", "null", "true", '"cat"', '"' + "x" * 999 + '"']
SCALARS += ["9" * 30, "9" * 400, "{}", "[]", '{"a": [1]}', '"\\ud800"', '"\\u0000"', "1e-320", "-0.0"]


def wrong_question(dice: random.Random) -> tuple[bytes, str]:
    """Makes the body of a question and its type, which break at least one rule."""
    right = json.dumps({"inputs": PICTURES.tolist(), "params": {"mode": "embed"}})
    mode = dice.choice(["reconstruct", "embed", "score"])
    rules = {
        "truncated": lambda: right[: dice.randrange(len(right))],
        "rubbish": lambda: dice.randbytes(dice.randrange(2000)),
        "deep": lambda: '{"inputs": ' + dice.choice("[{") * dice.randrange(2, 3000),
        "deep and closed": lambda: _question(_nest("1", dice.choice([1, 2, 5, 6, 33, 65, 300])), mode),
        "scalar": lambda: _question(_nest(dice.choice(SCALARS), dice.randrange(3)), mode),
        "one bad pixel": lambda: _bad_pixel(dice, mode),
        "shape": lambda: _question(json.dumps(np.zeros(_wrong_shape(dice), int).tolist()), mode),
        "codes": lambda: _question(
            json.dumps(np.zeros((dice.randrange(9), dice.choice([1, 2, 4]))).tolist()), "decode"
        ),
        "mode": lambda: _question("[]", "".join(dice.choices("abcdefgh ;'%", k=dice.randrange(300)))),
        "n": lambda: _params(n=dice.choice([0, -1, -(10**9), 10**9, 10**30, 1.5, None, "3", [1], True])),
        "seed": lambda: _params(seed=dice.choice([-1, 2**63, 10**30, 0.5, None, "a", {}])),
        "param": lambda: _params(**{"".join(dice.choices("abcxyz_.", k=7)): 1}),
        "key": lambda: json.dumps({"".join(dice.choices("abcxyz_.", k=7)): PICTURES.tolist()}),
        "keys": lambda: json.dumps({"inputs": [], "instances": []}),
        "params": lambda: right.replace('{"mode": "embed"}', dice.choice(["[]", "3", '"mode"', "true"])),
    }
    body = rules[dice.choice(sorted(rules))]()
    return body.encode() if isinstance(body, str) else body, JSON


def _nest(text: str, depth: int) -> str:
    return "[" * depth + text + "]" * depth


def _question(inputs: str, mode: str) -> str:
    return f'{{"inputs": {inputs}, "params": {json.dumps({"mode": mode})}}}'


def _params(**params: Any) -> str:
    return json.dumps({"inputs": [], "params": {"mode": "generate"} | params})


def _bad_pixel(dice: random.Random, mode: str) -> str:
    pixels = json.dumps(PICTURES.tolist()).split(", ")
    pixels[dice.randrange(1, len(pixels) - 1)] = dice.choice([text for text in SCALARS if text not in ("0", "true")])
    return _question(", ".join(pixels), mode)


def _wrong_shape(dice: random.Random) -> tuple[int, ...]:
    shape = [dice.choice([0, 1, 2, 7, 9]) for _ in range(dice.randrange(1, 6))]
    return tuple(shape)
