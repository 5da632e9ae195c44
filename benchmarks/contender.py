"""Makes one measurement in a process of its own: `python -m benchmarks.contender JOB` reads and prints JSON objects."""

from __future__ import annotations

import json
import os
import sys

from benchmarks.jobs import Job, Measured


def measure(job: Job) -> Measured:
    """Makes the measurement; each kind of work is a module that is imported here, so that no process loads others."""
    match job.work:
        case "machine":
            from benchmarks.contenders import machine

            return machine.measure(job)
        case "training":
            from benchmarks.contenders import training

            return training.measure(job)
        case "search":
            from benchmarks.contenders import search

            return search.measure(job)
        case "folder":
            from benchmarks.contenders import folder

            return folder.measure(job)
        case "tracking":
            from benchmarks.contenders import tracking

            return tracking.measure(job)
    raise ValueError(f"work={job.work}: no such measurement")


def bind(threads: int) -> None:
    """Binds this process to so many of the cores that it may use, where the system can do so.

    Torch's number of threads is not enough: it binds neither processes that a contender starts nor what counts the
    cores itself, as the project's searches do.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main() -> None:
    """Prints the answer on stdout; whatever libraries print goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = Job(**json.loads(sys.argv[1]))
    if job.device == "cpu":
        bind(job.threads)  # before any library starts threads, which keep the cores that they start with
    import torch

    from aemodels.config import UserError

    torch.set_num_threads(job.threads)
    if job.device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, for all alike: the project sets it with the device
    try:
        measured = measure(job)
    except UserError as error:
        sys.exit(f"{error}")
    print(json.dumps(measured), file=answer, flush=True)


if __name__ == "__main__":  # processes that a contender spawns import this module
    main()
