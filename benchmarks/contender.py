"""The process of one measurement: `python -m benchmarks.contender JOB`, a JSON object in, a JSON object out."""

from __future__ import annotations

import json
import os
import sys

from benchmarks.jobs import Job, Measured


def measure(job: Job) -> Measured:
    """Each kind of work is a module, imported here, so that a process loads what it needs and no more."""
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
    """To so many of the cores that the process may use, where the system can: torch's number of threads binds neither
    processes that a contender starts nor what counts the cores itself, as the project's searches do.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main() -> None:
    """Whatever libraries print goes to stderr; stdout has the answer alone."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = Job(**json.loads(sys.argv[1]))
    if job.device == "cpu":
        bind(job.threads)  # before any library starts threads, which have the cores of their start
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
