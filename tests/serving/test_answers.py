"""Tests what a registered model answers in the library, in a bare environment and over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aemodels.config import UserError
from aemodels.models.base import GenerativeModel
from aemodels.nn.batch import AT_ONCE
from aemodels.serving.answers import MOST_GENERATED, RANGES, Question, answer
from aemodels.serving.packing import requirements
from aemodels.tracking.gate import Decision
from aemodels.tracking.registry import conclude, register
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store

BYTES = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def champion(store: Store, model_folder: Path) -> str:
    """Registers a champion, and returns how MLflow finds it."""
    with start_run(store, "tiny", "one") as run:
        version = register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    conclude(store, version, Decision(True, "the first", {}))
    return store.uri


# ---- answers


def test_every_mode_answers_with_plain_arrays(model: GenerativeModel) -> None:
    shapes = {"reconstruct": (5, 1, 8, 8), "embed": (5, 3), "score": (5,), "generate": (4, 1, 8, 8)}
    for mode, shape in shapes.items():
        result = answer(model, BYTES, Question(mode, n=4))
        assert type(result) is np.ndarray
        assert (result.shape, result.dtype) == (shape, np.float32)
        assert np.isfinite(result).all()
    codes = answer(model, BYTES, Question("embed"))
    decoded = answer(model, codes.tolist(), Question("decode"))
    drawn = answer(model, BYTES, Question("reconstruct"))
    np.testing.assert_allclose(decoded, drawn, atol=1e-6)
    errors = np.square(drawn - BYTES / 255).mean((1, 2, 3))
    np.testing.assert_allclose(answer(model, BYTES, Question("score")), errors, rtol=1e-4)


def test_bytes_floats_and_lists_are_the_same_images(model: GenerativeModel) -> None:
    expected = answer(model, BYTES, Question("embed"))
    for same in (BYTES[:, 0], BYTES.tolist(), BYTES.astype(np.int64), BYTES / 255, (BYTES / 255).tolist()):
        np.testing.assert_allclose(answer(model, same, Question("embed")), expected, atol=1e-6)


BLACK_AND_WHITE = np.random.default_rng(1).integers(0, 2, (4, 1, 8, 8), dtype=np.uint8)
AS = {  # the ways in which the same image may come
    "floats": BLACK_AND_WHITE.astype(np.float64),
    "booleans": BLACK_AND_WHITE.astype(bool),
    "JSON floats": BLACK_AND_WHITE.astype(float).tolist(),
    "JSON booleans": BLACK_AND_WHITE.astype(bool).tolist(),
    "integers": BLACK_AND_WHITE,
    "wide integers": BLACK_AND_WHITE.astype(np.int64),
    "JSON integers": BLACK_AND_WHITE.tolist(),
    "one byte image": [BLACK_AND_WHITE[0].tolist(), *(BLACK_AND_WHITE[1:] * 255).tolist()],
    "mixed numbers": [BLACK_AND_WHITE[0].tolist(), *BLACK_AND_WHITE[1:].astype(float).tolist()],
}


@pytest.mark.parametrize("kind", AS)
def test_a_black_and_white_image_is_read_the_same_or_not_at_all(model: GenerativeModel, kind: str) -> None:
    """JavaScript writes 0.0 and 1.0 as the integers 0 and 1, which could also be two nearly black bytes."""
    images = AS[kind]
    expected = answer(model, AS["floats"], Question("score"))
    if kind.endswith("integers"):
        with pytest.raises(UserError, match=r"is 1 white, or nearly black\? Send range=unit .*, range=bytes"):
            answer(model, images, Question("score"))
        dark = answer(model, BLACK_AND_WHITE / 255, Question("score"))
        np.testing.assert_allclose(answer(model, images, Question("score", range="bytes")), dark, rtol=1e-5)
    if kind == "one byte image":  # bytes beside it say what it is
        dark = answer(model, BLACK_AND_WHITE[:1] / 255, Question("score"))
        np.testing.assert_allclose(answer(model, images, Question("score"))[:1], dark, rtol=1e-5)
    elif kind.endswith("integers"):
        np.testing.assert_allclose(answer(model, images, Question("score", range="unit")), expected, rtol=1e-5)
    else:
        np.testing.assert_allclose(answer(model, images, Question("score")), expected, rtol=1e-5)


def test_black_is_black_in_every_range(model: GenerativeModel) -> None:
    black = np.zeros((2, 8, 8), np.uint8)
    for images in (black, black.tolist(), black.astype(float)):
        for pixels in RANGES:
            told = answer(model, images, Question("embed", range=pixels))
            np.testing.assert_array_equal(told, answer(model, black, Question("embed")))


def test_floats_are_bytes_where_one_says_so(model: GenerativeModel) -> None:
    expected = answer(model, BYTES, Question("embed"))
    told = answer(model, BYTES.astype(np.float32), Question("embed", range="bytes"))
    np.testing.assert_array_equal(told, expected)


def test_white_may_be_rounded(model: GenerativeModel) -> None:
    white = np.ones((1, 8, 8), np.float32)
    rounded = answer(model, white * np.float32(1.0000001), Question("embed"))
    np.testing.assert_array_equal(rounded, answer(model, white, Question("embed")))


def test_many_images_are_answered_like_few(model: GenerativeModel) -> None:
    many = np.tile(BYTES, (AT_ONCE // 5 + 1, 1, 1, 1))
    np.testing.assert_allclose(
        answer(model, many, Question("embed"))[-5:], answer(model, BYTES, Question("embed")), atol=1e-6
    )
    assert len(answer(model, None, Question("generate", n=AT_ONCE + 3))) == AT_ONCE + 3


def test_a_seed_draws_the_same_images(model: GenerativeModel) -> None:
    first, again, other = (answer(model, [], Question("generate", 3, seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("inputs", "question", "says"),
    [
        (BYTES, Question("draw"), "mode=draw: unknown; choose one of reconstruct"),
        (BYTES, Question("generate", n=0), "n=0: from 1 to 10000"),
        (BYTES, Question("generate", n=MOST_GENERATED + 1), "n=10001: from 1 to 10000"),
        (BYTES, Question("generate", seed=-1), "seed=-1"),
        (BYTES[:, :, :7], Question(), r"images of shape (5, 1, 7, 8): this model takes (N, 1, 8, 8) or (N, 8, 8)"),
        (BYTES[0, 0], Question(), "images of shape (8, 8)"),
        (BYTES[:0], Question(), "images of shape (0, 1, 8, 8)"),
        (BYTES.transpose(0, 2, 3, 1), Question(), "move the channels to the front"),
        (BYTES.astype(np.float32), Question(), "images with pixels from 0 to 255: pixels that are no integers run"),
        (BYTES.astype(np.int16) - 300, Question(), "integer pixels run from 0 to 255"),
        (BYTES / 255, Question(range="bytes"), "range=bytes: these pixels are no whole numbers; send range=unit"),
        (BYTES, Question(range="unit"), "range=unit: pixels run from 0 to 1"),
        (BYTES * 2.0, Question(range="bytes"), "range=bytes: pixels run from 0 to 255"),
        (BYTES, Question(range="byte"), "range=byte: unknown; choose one of auto, unit, bytes"),
        ([[[0.5] * 8] * 7 + [[200] * 8]], Question(), "from 0.5 to 200: pixels that are no integers run from 0 to 1"),
        (np.full((1, 8, 8), np.nan), Question(), "images: 64 values are NaN or infinite"),
        ([[[1, 2], [3]]], Question(), "images: they are not one array"),
        (None, Question(), "images: NoneType of object is no array of numbers"),
        ([["a"]], Question(), "is no array of numbers; send numbers"),
        (np.zeros((2, 4)), Question("decode"), "codes of shape (2, 4): send codes of shape (N, 3)"),
        (np.full((2, 3), np.inf), Question("decode"), "codes: 6 values are NaN or infinite"),
    ],
)
def test_a_wrong_question_is_explained(model: GenerativeModel, inputs: Any, question: Question, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        answer(model, inputs, question)


# ---- the registered model


def test_a_champion_is_loaded_by_mlflow(champion: str, model: GenerativeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import pyfunc
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_URI", champion)
    served = pyfunc.load_model("models:/tiny@champion")
    np.testing.assert_array_equal(served.predict(BYTES), answer(model, BYTES, Question()))
    for mode in ("embed", "score"):
        np.testing.assert_array_equal(served.predict(BYTES, {"mode": mode}), answer(model, BYTES, Question(mode)))
    black_and_white = (BYTES > 127).astype(np.uint8)
    told = served.predict(black_and_white, {"mode": "score", "range": "unit"})
    np.testing.assert_array_equal(told, answer(model, BYTES > 127, Question("score")))
    with pytest.raises(MlflowException, match="is 1 white, or nearly black"):
        served.predict(black_and_white, {"mode": "score"})
    expected = answer(model, None, Question("generate", 3, 7))
    for nothing in (None, []):
        np.testing.assert_array_equal(served.predict(nothing, {"mode": "generate", "n": 3, "seed": 7}), expected)
    with pytest.raises(MlflowException, match="mode=draw: unknown"):
        served.predict(BYTES, {"mode": "draw"})


BARE = """
import sys
import numpy as np
from mlflow import pyfunc
model = pyfunc.load_model("models:/tiny@champion")
images = np.zeros((2, 8, 8), np.uint8)
shapes = [list(model.predict(images, {"mode": mode, "n": 3}).shape) for mode in ("reconstruct", "embed", "generate")]
codes = model.predict(images, {"mode": "embed"})
shapes.append(list(model.predict(codes, {"mode": "decode"}).shape))
import aemodels
print(shapes, aemodels.__file__)
for name in ("torchvision", "optuna", "prefect", "psutil", "filelock", "typer"):
    assert name not in sys.modules, name
"""


@pytest.mark.slow
def test_a_champion_is_loaded_where_only_its_requirements_are(champion: str, tmp_path: Path) -> None:
    """The packages of its requirements.txt are linked into one folder, and this checkout is not there."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("mlflow", *(line.split("==")[0] for line in requirements())):
        _link(name, packages, set())
    assert not (packages / "optuna").exists()
    assert not (packages / "torchvision").exists()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "MLFLOW_TRACKING_URI": champion}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "HOME": str(tmp_path)}
    python = str(Path(sys.base_prefix) / "bin" / "python3")
    command = [python, "-s", "-c", BARE]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shapes, file = done.stdout.rsplit(" ", 1)
    assert json.loads(shapes) == [[2, 1, 8, 8], [2, 3], [3, 1, 8, 8], [2, 1, 8, 8]]
    assert Path(file).parent.parent.name == "code"  # the library that the model brought along


def _link(name: str, target: Path, done: set[str]) -> None:
    """Links a distribution and all that it requires into a folder."""
    from packaging.requirements import Requirement

    try:
        found = distribution(name)
    except PackageNotFoundError:  # of another platform
        return
    if (key := name.lower().replace("_", "-")) in done:
        return
    done.add(key)
    for first in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
        if not (target / first).exists():
            (target / first).symlink_to(found.locate_file(first))
    for text in found.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            _link(requirement.name, target, done)


@pytest.mark.slow
def test_a_champion_answers_over_http(champion: str, model: GenerativeModel, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "-p", str(port)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": champion, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as in an activated .venv: for uvicorn
    server = subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        limit = time.monotonic() + 120
        while not _answers(f"{address}/ping"):
            assert server.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.5)
        drawn = _ask(address, {"inputs": BYTES.tolist(), "params": {"mode": "reconstruct"}})
        np.testing.assert_allclose(drawn, answer(model, BYTES, Question()), atol=1e-6)
        drawn = _ask(address, {"inputs": [], "params": {"mode": "generate", "n": 3, "seed": 7}})
        np.testing.assert_allclose(drawn, answer(model, None, Question("generate", 3, 7)), atol=1e-6)
        with pytest.raises(urllib.error.HTTPError) as refused:
            _ask(address, {"inputs": [[1.0]], "params": {"mode": "reconstruct"}})
        assert refused.value.code == 400
        assert "images of shape (1, 1): this model takes" in json.loads(refused.value.read())["message"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def _ask(address: str, question: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["predictions"]
