"""Runs `aemodels serve`, as a person starts it."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from places import ROOT
from questions import JSON, Reply

OPEN_FILES = 1024  # that a process may have, as on most systems


class Server(NamedTuple):
    """A server is a process that serves a model."""

    process: subprocess.Popen[str]
    port: int

    def send(self, body: Any, kind: str = JSON, method: str = "POST", path: str = "/invocations", **more: Any) -> Reply:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, {"Content-Type": kind}, **more)
            reply = connection.getresponse()
            return Reply(reply.status, reply.read().decode())

    def ask(self, **question: Any) -> np.ndarray:
        status, text = self.send(json.dumps(question).encode())
        assert status == 200, text
        return np.array(json.loads(text)["predictions"], np.float32)

    def memory(self) -> int:
        """Returns the bytes that the process takes in memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def running(model: Path, folder: Path) -> Iterator[Server]:
    """Runs a server on a free port, in a folder without the checkout; it must end well, with nothing on stderr."""
    command = [sys.executable, "-m", "flows.cli.main", "serve", str(model), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        try:
            assert process.stdout is not None
            told = re.search(r"http://127\.0\.0\.1:(\d+)/invocations", process.stdout.readline())
            assert told, Path(log.name).read_text()
            yield Server(process, int(told[1]))
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(20)
    assert code == 0
    assert Path(log.name).read_text() == ""  # nothing that nobody expected
