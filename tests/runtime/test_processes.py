"""Tests real processes that run the generators below; they find them as the module `test_processes`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aemodels.config import UserError
from aemodels.data.source import UnreadableError
from aemodels.runtime.processes import GeneratorProcess, ProcessDiedError, Returned, Yielded, ready

Steps = Generator[Any, Any, Any]
FOLDER = str(Path(__file__).parent)
ROOT = Path(__file__).parents[2]  # not from places.py: new processes find this module alone


def double(values: list[int]) -> Steps:
    answers = []
    for value in values:
        answer = yield 2 * value
        answers += [answer]
    return answers


def fail(kind: str) -> Steps:
    yield "before"
    if kind == "own":
        raise UnreadableError("cat.png", "no PNG", "remove it")
    if kind == "text is made by the constructor":
        raise ShortError("cat")
    if kind == "system":
        Path("/no/such/file").read_text()
    if kind == "unicode":
        b"\xff".decode()
    if kind == "cannot be pickled":
        error = ValueError("bad value")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error
    if kind == "value":
        yield lambda: None
    return lambda: None


class ShortError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"no such animal: {name}")
        self.name = name


def facts() -> Steps:
    print("to stdout")
    os.system("echo and from the system")
    yield os.getpid(), sys.path, {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {"torch", "torchvision", "mlflow", "prefect", "optuna"} & set(sys.modules)


def compute(how: str) -> Steps:
    yield os.getpid()
    while how == "busily":
        pass
    while how == "asleep":
        time.sleep(100)
    if how == "in one call":
        10 ** (10**9)  # holds the interpreter's lock for minutes
    yield "end"


def wait_for(file: Path) -> Steps:
    while not file.exists():
        time.sleep(0.01)
    yield file.name


# ---------------------------------------------------------------- values, errors, ends


@pytest.fixture(scope="module")
def here() -> Iterator[ModuleType]:
    """Returns the module itself, under the name by which the processes find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield import_module("test_processes")


@pytest.fixture(scope="module")
def peer(here: ModuleType) -> Iterator[GeneratorProcess]:  # noqa: ARG001
    with closing(GeneratorProcess()) as peer:
        yield peer


def drain(peer: GeneratorProcess) -> list[Any]:
    """Returns all that a generator yields, each answered with its number, then what it returns."""
    values: list[Any] = []
    while isinstance(message := peer.receive(), Yielded):
        peer.answer(len(values))
        values.append(message.value)
    assert isinstance(message, Returned)
    return [*values, message.value]


def test_values_both_ways(peer: GeneratorProcess, here: ModuleType) -> None:
    peer.start(here.double, [1, 2, 3])
    assert drain(peer) == [2, 4, 6, [0, 1, 2]]
    peer.start(here.double, [])
    assert peer.receive() == Returned([])
    large = [10**100_000] * 100  # more than a socket holds
    peer.start(here.double, large)
    assert drain(peer)[:-1] == [2 * value for value in large]


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("own", UnreadableError, "data: image cat.png cannot be read (no PNG); remove it"),
        ("text is made by the constructor", None, "no such animal: cat"),
        ("system", FileNotFoundError, "[Errno 2] No such file or directory: '/no/such/file'"),
        ("unicode", UnicodeDecodeError, "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ("cannot be pickled", RuntimeError, "ValueError: bad value"),
    ],
)
def test_errors_arrive_as_themselves(
    peer: GeneratorProcess, here: ModuleType, kind: str, error: type[Exception] | None, text: str
) -> None:
    peer.start(here.fail, kind)
    assert peer.receive() == Yielded("before")
    peer.answer()
    with pytest.raises(error or here.ShortError) as raised:
        peer.receive()
    assert type(raised.value) is (error or here.ShortError)
    assert str(raised.value) == text
    assert "in fail\n" in raised.value.__notes__[0]  # the peer's traceback
    if kind == "own":
        assert raised.value.__dict__["file"] == "cat.png"
    peer.start(here.double, [1])
    assert drain(peer) == [2, [0]]


@pytest.mark.parametrize("kind", ["value", "result"])
def test_what_cannot_be_sent(peer: GeneratorProcess, here: ModuleType, kind: str) -> None:
    with pytest.raises(Exception, match="pickle"):
        peer.start(here.double, lambda: None)
    peer.start(here.fail, kind)
    peer.receive()
    peer.answer()
    with pytest.raises(Exception, match="pickle"):
        peer.receive()
    peer.start(here.double, [1])
    assert drain(peer) == [2, [0]]


def test_function_that_the_process_does_not_find(peer: GeneratorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "__module__", "__main__")
    with pytest.raises(ValueError, match="double is in the main script; move it to a module"):
        peer.start(double, [])


def test_one_generator_at_a_time(peer: GeneratorProcess, here: ModuleType) -> None:
    peer.start(here.double, [1])
    with pytest.raises(RuntimeError, match="runs a generator already; receive its end"):
        peer.start(here.double, [2])
    assert drain(peer) == [2, [0]]


def test_ready_names_those_that_have_something(peer: GeneratorProcess, here: ModuleType, tmp_path: Path) -> None:
    with closing(GeneratorProcess()) as other:
        peer.start(here.wait_for, tmp_path / "first")
        other.start(here.wait_for, tmp_path / "second")
        for name, expected in (("second", other), ("first", peer)):
            (tmp_path / name).touch()
            assert ready([peer, other]) == [expected]
            assert expected.receive() == Yielded(name)
        peer.answer()
        assert drain(peer) == [None]
        os.kill(other.popen.pid, signal.SIGKILL)
        assert ready([peer, other]) == [other]


def test_a_process_apart(peer: GeneratorProcess, here: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(GeneratorProcess(threads=3)) as other:
        other.start(here.facts)
        process, path, threads = other.receive().value
        other.answer()
        assert other.receive() == Returned(set())  # it imports nothing that is not asked for
    assert process == other.popen.pid != os.getpid()
    assert path == sys.path
    assert set(threads.values()) == {"3"}
    assert peer.popen.pid != process
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "to stdout\nand from the system\n")


def test_from_a_thread(here: ModuleType) -> None:
    found: list[Any] = []

    def use() -> None:
        with closing(GeneratorProcess()) as peer:
            peer.start(here.double, [1, 2])
            found.extend(drain(peer))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [2, 4, [0, 1]]


def test_a_process_that_is_killed_in_the_middle_of_a_message(here: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(GeneratorProcess()) as peer:
        peer.start(here.double, [bytes(50_000_000)])
        received = Connection.recv_bytes

        def killed_meanwhile(source: Connection) -> bytes:
            monkeypatch.setattr(Connection, "recv_bytes", received)
            size = received(source)
            os.kill(peer.popen.pid, signal.SIGKILL)
            peer.popen.wait()
            return size

        monkeypatch.setattr(Connection, "recv_bytes", killed_meanwhile)
        with pytest.raises(ProcessDiedError, match="ended by signal 9"):
            peer.receive()


def test_killed_process(here: ModuleType) -> None:
    peer = GeneratorProcess()
    peer.start(here.compute, "asleep")
    process = peer.receive().value
    peer.answer()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(
        ProcessDiedError, match=r"ended by signal 9 \(Killed\); if memory ran out, .*run this"
    ) as raised:
        peer.receive()
    assert isinstance(raised.value, UserError)
    assert raised.value.status == -9
    for use in (peer.answer, peer.receive, lambda: peer.start(here.double, [1])):
        with pytest.raises(ProcessDiedError):
            use()
    peer.close()


def test_close_ends_it_whatever_it_does(here: ModuleType) -> None:
    peer = GeneratorProcess()
    peer.start(here.compute, "in one call")
    peer.receive()
    peer.answer()
    peer.close()
    peer.close()
    assert peer.popen.returncode == -9
    forgotten = GeneratorProcess()
    process = forgotten.popen
    del forgotten
    assert process.returncode == -9


# ---------------------------------------------------------------- its parent: a script without a main guard

SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import test_processes
from aemodels.runtime.processes import GeneratorProcess

peers = [GeneratorProcess(), GeneratorProcess()]
for peer in peers:
    peer.start(test_processes.compute, sys.argv[2])
processes = [peer.receive().value for peer in peers]
for peer in peers:
    peer.answer()
try:
    print(*processes, flush=True)
    time.sleep(float(sys.argv[3]))
except KeyboardInterrupt:
    print(*(peer.receive().value for peer in peers), flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Returns a function (how its two children compute, seconds) that starts a process in a group of its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    started: list[subprocess.Popen[str]] = []

    def start(how: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, str(tmp_path / "script.py"), FOLDER, how, str(seconds)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, process_group=0
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_peers(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(number) for number in process.stdout.readline().split()]


def wait_until_gone(processes: list[int], seconds: float = 2) -> None:
    end = time.monotonic() + seconds
    while left := [process for process in processes if is_alive(process)]:
        assert time.monotonic() < end, f"{left} are left"
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    """Tells whether a process lives. A zombie that nobody in this container reaps is dead."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return bool(found) and not found.startswith("Z")


@pytest.mark.parametrize("how", ["busily", "asleep"])
def test_killed_parent(script: Callable[..., subprocess.Popen[str]], how: str) -> None:
    process = script(how, 60)
    peers = read_peers(process)
    assert len(peers) == 2
    assert all(map(is_alive, peers))
    process.kill()
    wait_until_gone(peers)
    assert process.communicate() == ("", "")


def test_parent_that_ends_and_forgets_them(script: Callable[..., subprocess.Popen[str]]) -> None:
    process = script("busily", 0)
    peers = read_peers(process)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert not any(map(is_alive, peers))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_are_the_parents(
    script: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = script("to the end", 60)
    peers = read_peers(process)
    os.killpg(process.pid, number)
    said, errors = process.communicate(timeout=30)
    assert errors == ""
    assert said == ("end end\n" if number == signal.SIGINT else "")  # a signal that it does not handle ends the parent
    wait_until_gone(peers)


def test_signal_while_it_starts() -> None:
    with closing(GeneratorProcess()) as peer:
        for _ in range(20):
            os.kill(peer.popen.pid, signal.SIGINT)
            time.sleep(0.01)
        assert peer.popen.poll() is None
