"""Runs each measurement in a process of its own; a job is what it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 3600  # seconds after which a process counts as hung
SLOWER = "training goes on without it, slower"  # the project's own warning where no graph can be made
TAIL = 20  # last lines of a failed process's messages that are kept

Measured = dict[str, Any]  # a process's answer: numbers, and lists of them


class Job(NamedTuple):
    """A job is what a process is asked to measure."""

    work: str  # the kind of work, each of which is a module of contenders/
    contender: str
    device: str  # cpu or cuda
    threads: int
    seed: int
    data: dict[str, Any]  # PreparedData of MNIST, as JSON has it
    settings: dict[str, Any]  # settings of the work, mostly sizes


class FailedError(Exception):
    """A process has ended without an answer."""


def run_job(job: Job) -> Measured:
    """Starts a process, and returns its answer with the seconds that the whole process took.

    Raises:
        FailedError: it ended without one.
    """
    command = [sys.executable, "-m", "benchmarks.contender", json.dumps(job._asdict())]
    environment = {**os.environ, "AEMODELS_DEVICE": job.device}  # no other changes, so that it is alike for all
    load, started = os.getloadavg()[0], time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise FailedError(f"no answer after {LONGEST} s") from None
    if done.returncode:
        raise FailedError("\n".join(done.stderr.strip().splitlines()[-TAIL:]) or f"exit code {done.returncode}")
    answer: Measured = json.loads(done.stdout)
    slower = [line for line in done.stderr.splitlines() if SLOWER in line]
    return answer | {"process_seconds": time.perf_counter() - started, "load_before": load, "warnings": slower}
