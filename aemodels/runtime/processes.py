"""Runs generator functions in other processes, step by step, for this one.

They are neither forked (Prefect and torch have threads) nor spawned by multiprocessing (which imports the caller's main
module again). They are fresh interpreters, each with this one's module search path and a connection to it. So they work
from a script without a main guard, a prompt, a thread, or a flow, on Linux and macOS.

    process = GeneratorProcess()
    process.start(count, 3)  # def count(n): for i in range(n): wish = yield i; return "done"
    while isinstance(message := process.receive(), Yielded):
        process.answer("go on")
    process.close()
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, NamedTuple, NoReturn

from aemodels.config import UserError
from aemodels.runtime.progress import Driven

ALIKE = "AEMODELS_PROCESSES_ALIKE"  # set for the processes that are started here
BOOT = "import sys; sys.path[:] = sys.argv[2:]; from aemodels.runtime.processes import serve; serve(int(sys.argv[1]))"
# Ctrl-C at a terminal and a supervisor's SIGTERM reach the whole group of processes; only the parent reacts to them.
UNHEEDED = (signal.SIGINT, signal.SIGTERM)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
PATIENCE = 5  # seconds that a process without a connection may take to end by itself

GeneratorFunction = Callable[..., Generator[Any, Any, Any]]


def alike() -> int:
    """Returns how many processes like this one would find the same memory free at the same moment."""
    return int(os.environ.get(ALIKE, "1"))


class ProcessDiedError(UserError):
    """A process that ran generators is gone, whatever it was doing."""

    def __init__(self, status: int) -> None:
        self.reason = _obituary(status)
        super().__init__(f"{self.reason}; then run this again")
        self.status = status  # its exit status; -9 if signal 9 ended it


class Yielded(NamedTuple):
    """The generator yielded this value, and waits for `answer`."""

    value: Any


class Returned(NamedTuple):
    """The generator ended with this value; the process is ready for the next one."""

    value: Any


class GeneratorProcess:
    """Starts a process that runs generator functions of importable modules, one after the other.

    It ends with this process, however this one ends, and it ignores Ctrl-C, to which this one reacts. What it prints
    goes to stderr. One thread at a time may use it.
    """

    def __init__(self, threads: int = 1, alike: int = 1) -> None:
        """Starts the process and does not wait for it.

        Args:
            threads: how many threads its libraries compute with.
            alike: how many processes like this one share the memory; the process reads it with `alike()`.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-c", BOOT, str(theirs.fileno()), *map(str, sys.path)]
        environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {ALIKE: str(alike)}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, UNHEEDED)  # inherited until the process ignores them itself
        try:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=2, env=environment, pass_fds=[theirs.fileno()]
            )
        except OSError as error:
            raise UserError(f"no process can be started ({error}); allow more processes, or free memory") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.connection = Connection(ours.detach())
        self._end = weakref.finalize(self, _end, self.popen, self.connection)  # runs also when this process exits
        self._runs = False

    def start(self, function: GeneratorFunction, *args: object) -> None:
        """Makes the process run `function(*args)`, a generator function of a module; does not wait."""
        if self._runs:
            raise RuntimeError("the process runs a generator already; receive its end first")
        if function.__module__ == "__main__":
            raise ValueError(f"{function.__qualname__} is in the main script; move it to a module that can be imported")
        self._send(_Start(function, args))
        self._runs = True

    def receive(self) -> Yielded | Returned:
        """Waits for what the generator yields or returns; raises what it raises, with the traceback as a note.

        Raises:
            ProcessDiedError: the process is gone; `start` and `answer` raise it too.
        """
        message = self._receive()
        self._runs = isinstance(message, Yielded)
        if isinstance(message, _Raised):
            raise message.error()
        return message  # type: ignore[no-any-return]

    def answer(self, value: object = None) -> None:
        """Lets the generator go on, with this as the value of its `yield`; does not wait, and may come ahead of it."""
        self._send(value)

    def close(self) -> None:
        """Ends the process at once, whatever it runs; bring a generator that has to clean up to its end before."""
        self._end()

    def _send(self, message: object) -> None:
        parts = _dumps(message)
        try:
            _send(self.connection, parts)
        except ConnectionError:
            self._died()

    def _receive(self) -> Any:
        try:
            parts = _receive(self.connection)
        except (EOFError, OSError):  # also in the middle of a message
            self._died()
        return _loads(parts)

    def _died(self) -> NoReturn:
        self._runs = False
        try:
            status = self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            status = self.popen.wait()
        raise ProcessDiedError(status) from None


def ready(processes: Sequence[GeneratorProcess], seconds: float | None = None) -> list[GeneratorProcess]:
    """Waits until a process has something to receive (or is dead), and returns all such.

    It waits no longer than so many seconds.
    """
    found = wait([process.connection for process in processes], seconds)
    return [process for process in processes if process.connection in found]


def _end(popen: subprocess.Popen[bytes], connection: Connection) -> None:
    popen.kill()
    connection.close()
    popen.wait()


def _obituary(status: int) -> str:
    if status >= 0:
        return f"a process ended with status {status}; what it said before stands above"
    said = f"a process was ended by signal {-status} ({signal.strsignal(-status)})"
    if status == -signal.SIGKILL:
        said += "; if memory ran out, free some, or run fewer or smaller things at once"
    return said


# ---------------------------------------------------------------- messages


Parts = Sequence[bytes | bytearray | memoryview]  # a pickled object, then the arrays in it as they lie in memory


def _dumps(message: object) -> Parts:
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(message, 5, buffer_callback=buffers.append)
    return [content, *(buffer.raw() for buffer in buffers)]


def _loads(parts: Parts) -> Any:
    return pickle.loads(parts[0], buffers=parts[1:])


def _send(to: Connection, parts: Parts) -> None:
    to.send_bytes(len(parts).to_bytes(8))
    for part in parts:
        to.send_bytes(part)


def _receive(source: Connection) -> Parts:
    return [bytearray(source.recv_bytes()) for _ in range(int.from_bytes(source.recv_bytes()))]


class _Start(NamedTuple):
    function: GeneratorFunction
    args: tuple[object, ...]


class _Raised(NamedTuple):
    content: bytes  # the pickled exception
    traceback: str

    def error(self) -> BaseException:
        error: BaseException = pickle.loads(self.content)
        error.add_note(f"In the other process:\n{self.traceback}")
        return error


def _raised(error: BaseException) -> _Raised:
    text = "".join(traceback.format_exception(error))
    for form in (_Parts(error), error):
        try:
            content = pickle.dumps(form)
            copy = pickle.loads(content)
            if type(copy) is type(error) and str(copy) == str(error):
                return _Raised(content, text)
        except Exception:
            continue
    return _Raised(pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}")), text)


class _Parts:
    """Pickles an exception so that it is unpickled without its constructor.

    By itself an exception is unpickled with `args`, which a constructor that composes the text does not take. The
    exception classes that are written in C need theirs.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self.error), self.error.args, vars(self.error))


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


# ---------------------------------------------------------------- in the other process


def serve(descriptor: int) -> None:
    """Does in the process what its parent orders, until the parent lets go of the connection."""
    for number in UNHEEDED:
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    sys.stdout = sys.stderr
    parent, inbox = Connection(descriptor), SimpleQueue[Parts]()
    threading.Thread(target=_listen, args=(parent, inbox), daemon=True).start()

    def send(parts: Parts) -> None:
        try:
            _send(parent, parts)
        except ConnectionError:
            os._exit(0)  # the parent is gone, and _listen has had no time to see it

    def ask(message: Yielded) -> Any:
        send(_dumps(message))
        return _loads(inbox.get())

    while True:
        send(_outcome(inbox.get(), ask))


def _listen(parent: Connection, inbox: SimpleQueue[Parts]) -> None:
    """Ends the process when the parent is gone, also if it was killed, and while the main thread computes."""
    try:
        while True:
            inbox.put(_receive(parent))
    finally:
        os._exit(0)


def _outcome(order: Parts, ask: Callable[[Yielded], Any]) -> Parts:
    try:
        return _dumps(_run(_loads(order), ask))
    except BaseException as error:
        return _dumps(_raised(error))


def _run(order: _Start, ask: Callable[[Yielded], Any]) -> Returned:
    with Driven(order.function(*order.args)) as driven:
        for value in driven:
            driven.answer = ask(Yielded(value))
    return Returned(driven.result)
