"""Judges yardsticks: which distance orders sets of images as a person would? python -m benchmarks.judge.

AEMODELS_DATA names the folder of collections; one that is not there is left out. Samples and features are kept in a
folder, and what is in the results already is not measured again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aemodels.data import PreparedData
from aemodels.nn.efficientnet import weights_hash
from aemodels.runtime.files import write_whole
from benchmarks import results
from benchmarks.jobs import Job, run_job
from benchmarks.judge import views
from benchmarks.judge.candidates import OWN, PYRAMID, RANDOM, RESPONSES, Candidate, candidates
from benchmarks.judge.collections import COLLECTIONS, FEW, Collection
from benchmarks.judge.data_set_network import data_set_network
from benchmarks.judge.sets import COUNTED, REAL, REFERENCE, SHOWN, TRAINING, Chosen, Sets, across, group, names
from benchmarks.judge.table import as_across, as_markdown, as_order

NAME = "judge"  # of the files in benchmarks/results
FIXED = (RANDOM, PYRAMID, RESPONSES, *(f"photo {side}" for side in views.SIDES))  # the same for all data sets
MANY_VIEWS = (OWN, PYRAMID, "photo 48")  # those that are tried on many images

Row = dict[str, Any]
Found = dict[str, Tensor]  # set -> features


def main(arguments: Sequence[str] | None = None) -> int:
    """Judges every candidate on every collection, writes table and numbers, and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser("python -m benchmarks.judge", description="Judges distances of sets of images.")
    parser.add_argument("--out", type=Path, default=results.FOLDER, metavar="FOLDER", help="Write results here.")
    kept = "Keep samples and features in this folder."
    parser.add_argument("--kept", type=Path, default=Path("build/judge"), metavar="FOLDER", help=kept)
    every = (OWN, *FIXED)
    chosen = "Judge candidates of these views only."
    parser.add_argument("--views", nargs="+", choices=every, default=every, metavar="VIEW", help=chosen)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    file = options.out / f"{NAME}.json"
    result = results.read(file) if file.exists() else _new()
    if not result["seconds"]:
        result["seconds"] = cost()
    for collection in COLLECTIONS:
        if not collection.there:
            _say(f"{collection.name}: left out, its images are not there")
            continue
        for _ in judged(collection, options.kept, options.views, result["rows"]):
            results.write(file, result)
        text = as_markdown(result["rows"], result["seconds"])
        write_whole(options.out / f"{NAME}.md", partial(Path.write_text, data=text, encoding="utf-8"))
    return 0


def _new() -> results.Result:
    machine = run_job(Job("machine", "hardware", "cpu", 1, 0, {}, {}))
    about = {"hardware": machine["hardware"], "versions": machine["versions"], "photo_weights": weights_hash()}
    return {**results.origin([], "benchmarks.judge"), **about, "seconds": {}, "rows": []}


# ---------------------------------------------------------------- a collection


def judged(collection: Collection, folder: Path, wanted: Sequence[str], rows: list[Row]) -> Iterator[None]:
    """Adds to the rows what they lack of a collection, and yields after each of them."""
    parts = collection.parts()
    for name in ("samples", "features", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    data = {labelled: collection.prepared(parts, folder / "data", labelled) for labelled in (True, False)}
    sets = Sets(parts, data[True], folder)
    own_rows = [row for row in rows if row["collection"] == collection.name]
    done = {(row["labels"], row["images"], row["candidate"]): row for row in own_rows}
    for count, labelled in itertools.product(collection.sides, (True, False)):
        there = [view for view in wanted if count == FEW or view in MANY_VIEWS]
        fitting = [c for c in candidates() if c.views <= {*there} and (count == FEW or c.cheap)]
        for candidate in fitting:
            if (labelled, count, candidate.name) not in done:
                where = {"collection": collection.name, "labels": labelled, "images": count}
                rows.append({**where, "candidate": candidate.name, "distances": {}})
                done[labelled, count, candidate.name] = rows[-1]
        left = [c for c in fitting if not _complete(done[labelled, count, c.name])]
        if not left:
            continue
        most = max(collection.sides)
        found = {view: _features(sets, view, data[labelled], most if view in MANY_VIEWS else FEW) for view in there}
        for candidate in left:
            row = done[labelled, count, candidate.name]
            known, measured = row["distances"], _measuring(candidate, found, count)
            if not labelled and OWN not in candidate.views:
                known |= _without_kinds(done[True, count, candidate.name])
            for name in (*COUNTED, *SHOWN):
                if name not in known:
                    known[name] = as_order([measured(one) for one in group(name, parts, count, labelled)])
            row["across"] = as_across({(low, high): measured(low) < measured(high) for low, high in across()})
            yield
        _say(f"{collection.name}, {count} images, {'with' if labelled else 'without'} labels: {len(left)} candidates")


def _complete(row: Row) -> bool:
    return "across" in row and {*COUNTED, *SHOWN} <= {*row["distances"]}


def _without_kinds(row: Row) -> dict[str, str]:
    """Returns what labels change nothing of: everything but the images of missing kinds."""
    return {name: order for name, order in row["distances"].items() if name != "missing"}


def _features(sets: Sets, view: str, data: PreparedData, count: int) -> dict[str, Tensor]:
    """Returns the features of all sets with pixels of their own."""
    kept = f"own-{data.digest}" if view == OWN else view.replace(" ", "-")
    make = partial(data_set_network, data) if view == OWN else partial(_view, view)
    started = time.process_time()
    found = {name: sets.features(name, count, kept, make) for name in names()}
    if (seconds := time.process_time() - started) > 10:
        _say(f"{data.name}: {view} took {seconds:.0f} s")
    return found


def _view(name: str) -> views.View:
    """Returns a view that is the same for all data sets."""
    fixed = {RANDOM: views.random, PYRAMID: views.pyramid, RESPONSES: views.responses}
    return fixed[name] if name in fixed else views.photo(int(name.partition(" ")[2]))


def _measuring(candidate: Candidate, found: Mapping[str, Found], count: int) -> Callable[[Chosen], float]:
    """Returns the function that measures how far a set is from the reference."""
    at = {view: found[view] for view in candidate.views}
    real, floor = ({view: of[name][:count] for view, of in at.items()} for name in (REFERENCE, REAL))

    @cache
    def of_whole(name: str) -> float:
        return candidate.measure(real, {view: of[name][:count] for view, of in at.items()}, floor)

    def measured(chosen: Chosen) -> float:
        if chosen.rows is None:
            return of_whole(chosen.name)
        rows = torch.from_numpy(chosen.rows)
        pools = {view: torch.cat([of[REAL][:count], of[TRAINING][-count:]]) for view, of in at.items()}
        return candidate.measure(real, {view: pool[rows] for view, pool in pools.items()}, floor)

    return measured


def cost() -> dict[str, float]:
    """Measures the processor's seconds that each fixed view takes for 300 and 300 colour images of 64 pixels."""
    images, found = torch.rand(2 * FEW, 3, 64, 64), {}
    for name in FIXED:
        view = _view(name)
        view(images[:50])  # the first ones take longer
        started = time.process_time()
        view(images)
        found[name] = time.process_time() - started
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
