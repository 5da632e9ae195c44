"""Measures how much faster two processes of one thread each end a search than one: python -m benchmarks.joined.

OPTUNA_STORAGE names the database, and AEMODELS_DATA the folder with MNIST. Each process is a whole `aemodels tune`,
from its start to its result, on a core of its own. One alone and two together take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.jobs import Job, run_job

SEARCH = ["--preset", "article-vae", "tuning.trials=8", "evaluation.primary=mse", "registry.name=joined"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the seconds of every turn, the medians and their ratio as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.joined", description="Compares two processes with one.")
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="Measure this many turns.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Write the result to this file too.")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="Set what the search shall do differently.")
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if not os.environ.get("OPTUNA_STORAGE") or len(cores) < 2:
        print("OPTUNA_STORAGE must name a PostgreSQL database, and two cores are needed", file=sys.stderr)
        return 2
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        _search(Path(folder), cores[:1], [*options.changes, "tuning.trials=1", "tuning.epochs=1"])  # prepares the data
        for turn in range(options.turns):
            for name, used in (("one", [cores[turn % 2]]), ("two", cores[:2])):
                seconds[name].append(_search(Path(folder), used, options.changes))
                print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        **results.origin(options.changes, "benchmarks.joined"),
        "hardware": run_job(Job("machine", "hardware", "cpu", 1, 0, {}, {}))["hardware"],
        "seconds": seconds,
        "medians": medians,
        "ratio": medians["two"] / medians["one"],
    }
    print(json.dumps(result, indent=1))
    if options.out:
        results.write(options.out, result)
    return 0


def _search(store: Path, cores: Sequence[int], changes: Sequence[str]) -> float:
    """Returns the seconds until the last process has ended; the same settings then make a new study the next time."""
    command = ["tune", *SEARCH, *changes, "--json"]
    environment = os.environ | {"AEMODELS_STORE": str(store), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    processes = []
    for core in cores:
        code = f"import os, sys; os.sched_setaffinity(0, {{{core}}}); from flows.cli.main import main; main()"
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([sys.executable, "-c", code, *command], env=environment, **pipes))
    answers = [process.communicate() for process in processes]
    seconds = time.perf_counter() - started
    for process, (_, errors) in zip(processes, answers, strict=True):
        if process.returncode:
            raise RuntimeError(errors)
    bests = {json.dumps(json.loads(out)["best"]) for out, _ in answers}
    assert len(bests) == 1, bests
    return seconds


if __name__ == "__main__":
    sys.exit(main())
