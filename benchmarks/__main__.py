"""Runs the benchmarks as a command: it measures row after row, shows each number, and keeps all in a JSON file."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results, table
from benchmarks.jobs import FailedError, Job, run_job
from benchmarks.rows import Row, Scale, all_rows
from benchmarks.rows.row import Repeat, lacks

NO_DATA = (
    "The rows need MNIST. Set AEMODELS_DATA to the folder that has MNIST/raw in it with the four idx files, gzipped or "
    "not; with torchvision and a connection it is downloaded."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the rows and returns the exit code: 0, 1 if a contender failed, or 2 if nothing can be measured."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _options(arguments)
    if options.table:
        try:
            result = results.read(options.table)
        except (OSError, ValueError) as error:
            print(f"--table {options.table}: {error}", file=sys.stderr)
            return 2
        print(table.markdown(result))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = all_rows(Scale(options.device, options.quick, Path(folder)))
        if unknown := set(options.rows or ()) - {row.name for row in rows}:
            print(f"--rows {' '.join(unknown)}: unknown; choose from {' '.join(r.name for r in rows)}", file=sys.stderr)
            return 2
        wanted = [row for row in rows if not options.rows or row.name in options.rows]
        try:
            about = _machine(options)
        except FailedError as error:
            print(error, file=sys.stderr)
            return 2
        return _measure(wanted, options, results.new(about, arguments), about["data"])


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measures speed, side by side with others.")
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="Measure on this device.")
    add("--rows", nargs="+", metavar="NAME", help="Measure these rows only. A wrong name lists all of them.")
    add("--contenders", nargs="+", metavar="NAME", help="Measure only these peers beside the project itself.")
    add("--repeats", type=_positive, metavar="N", help="Give every row this many turns, instead of its own number.")
    threads = "Give every contender this many threads, and on a CPU as many cores."
    add("--threads", type=_positive, default=_cores(), metavar="N", help=threads)
    quick = "Run everything once in small sizes, to see whether it runs. The result is kept only with --out."
    add("--quick", action="store_true", help=quick)
    out = "Write the result to this file, instead of benchmarks/results/<hardware>-<date>.json."
    add("--out", type=Path, metavar="FILE", help=out)
    add("--table", type=Path, metavar="FILE", help="Print the table of an earlier result, and measure nothing.")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}: give 1 or more")
    return number


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what the numbers depend on, such as hardware and versions, and the prepared data.

    Raises:
        FailedError: nothing can be measured here.
    """
    job = Job("machine", "hardware", options.device, options.threads, 0, {}, {})
    about = run_job(job)
    _say("preparing MNIST ...")
    try:
        data = run_job(job._replace(contender="data"))["data"]
    except FailedError as error:
        raise FailedError(f"{table.gist(str(error))}\n{NO_DATA}") from None
    return {
        "device": options.device,
        "threads": options.threads,
        "quick": options.quick,
        "hardware": about["hardware"],
        "versions": about["versions"],
        "data": data,
    }


def _measure(rows: Sequence[Row], options: argparse.Namespace, result: results.Result, data: dict[str, Any]) -> int:
    file = options.out or (None if options.quick else results.free_file(result))
    for row in rows:
        result["rows"][row.name] = _row(row, options, data)
        results.add_shares(result)
        if file is not None:
            results.write(file, result)
    print(table.markdown(result))
    if file is not None:
        _say(f"all numbers: {file}")
    return int(any(row["failed"] for row in result["rows"].values()))


def _row(row: Row, options: argparse.Namespace, data: dict[str, Any]) -> dict[str, Any]:
    """Measures all turns of a row, in each of which every contender has one turn: A B C A B C ..."""
    skipped = _skipped(row, options)
    failed: dict[str, str] = {}
    for reason in dict.fromkeys(skipped.values()):
        names = [name for name, why in skipped.items() if why == reason]
        _say(f"{row.name}: {', '.join(names)} left out, {reason}")
    turns = options.repeats or row.repeats
    repeats: list[Repeat] = []
    for turn in range(1, turns + 1):
        job = Job(row.work, "", options.device, options.threads, turn, data, row.settings)
        repeats.append(row.settle(_turn(row, job, turns, skipped, failed)))
    return results.row_result(row, repeats, skipped, failed)


def _turn(row: Row, job: Job, turns: int, skipped: dict[str, str], failed: dict[str, str]) -> Repeat:
    """Measures every contender once; one that fails is not asked again.

    Peers are left out where the project's own number is missing, as theirs say nothing without it.
    """
    measured: Repeat = {}
    ours, *_ = row.contenders
    for name in row.contenders:
        if {name, ours if row.compared else name} & (skipped.keys() | failed.keys()):
            continue
        _say(f"{row.name} {name} {job.seed}/{turns} ...", end=" ")
        try:
            measured[name] = (row.measure or run_job)(job._replace(contender=name))
        except FailedError as error:
            failed[name] = str(error)
            _say(f"failed: {table.gist(str(error))}")
        else:
            _say(table.short(measured[name]))
    return measured


def _skipped(row: Row, options: argparse.Namespace) -> dict[str, str]:
    """Returns the contenders that are left out, each with the reason."""
    if reason := row.refusal():
        return dict.fromkeys(row.contenders, reason)
    reasons: dict[str, str] = {}
    for name, needs in row.contenders.items():
        if missing := lacks(needs):
            reasons[name] = f"{missing} not installed"
        elif options.contenders and name not in (*row.ours, *options.contenders):
            reasons[name] = "not asked for"
    return reasons


def _say(text: str, end: str = "\n") -> None:
    """Prints progress on standard error."""
    print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
