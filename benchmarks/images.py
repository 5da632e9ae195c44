"""Compares autoencoders on own images at equal time: python -m benchmarks.images.

AEMODELS_DATA names a folder with sign_digits, rgb_folder, tiles and MNIST; a collection that is not there is left out.
The project trains at its defaults, then each peer for as many seconds. All are measured on the same test images, and
drawn in one picture for each collection. What a collection came to is written at once, and stays until it is measured
again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from aemodels.config import UserError
from aemodels.data import PreparedData, prepare
from aemodels.data.folder import FolderConfig
from aemodels.data.mnist import MnistConfig
from aemodels.data.source import SourceConfig
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evaluate import evaluate
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import features_of
from aemodels.evaluation.references import MEAN_IMAGE, Size, reference_systems
from aemodels.reports.figures.comparison import side_by_side
from aemodels.reports.pictures import Picture
from aemodels.runtime.environment import data_root
from aemodels.runtime.files import write_whole
from aemodels.runtime.progress import finish
from aemodels.texts import number
from benchmarks import results
from benchmarks.contenders.own_images import LATENT, Trained, ours, plain, pythae
from benchmarks.jobs import Job, run_job
from benchmarks.rows.row import lacks

NAME = "images"  # of the files in benchmarks/results
CPU = torch.device("cpu")
KINDS = ("ae", "vae")
PEERS: dict[str, Callable[[PreparedData, str, float], Trained]] = {"plain": plain, "pythae": pythae}
SHOWN = ("mse", "share of linear code", "ssim", "frechet_samples", "seconds")
METRICS = ("mse", "ssim", "frechet_samples")
QUICK_IMAGES = 1_000  # of MNIST, with --quick


class Collection(NamedTuple):
    """A collection is images that are at hand."""

    folder: str  # below the folder of data
    size: int  # pixels

    @property
    def name(self) -> str:
        return f"{self.folder.partition('/')[0]}-{self.size}"

    def config(self, root: Path) -> SourceConfig:
        """Returns where its images are."""
        if self.folder == "MNIST":
            return MnistConfig()
        return FolderConfig(path=(root / self.folder,), image_size=self.size)


COLLECTIONS = (
    Collection("sign_digits", 32),
    Collection("rgb_folder", 32),
    Collection("sign_digits", 64),
    Collection("tiles/train/good", 64),
    Collection("MNIST", 28),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures every collection, writes table, picture and numbers, and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser("python -m benchmarks.images", description="Compares autoencoders on own images.")
    quick = "Train one epoch each, to see whether it runs. The result is kept only with --out."
    names = [collection.name for collection in COLLECTIONS]
    parser.add_argument("collections", nargs="*", metavar="COLLECTION", help=f"Measure these alone, of {names}.")
    parser.add_argument("--quick", action="store_true", help=quick)
    out = "Write images.json, images.md and a picture for each collection to this folder, not to benchmarks/results."
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out)
    options = parser.parse_args(arguments)
    if unknown := set(options.collections).difference(names):
        parser.error(f"there is no collection {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    root, folder = data_root(), options.out or (None if options.quick else results.FOLDER)
    machine = run_job(Job("machine", "hardware", "cpu", torch.get_num_threads(), 0, {}, {}))
    found = earlier(folder, options.quick)
    for collection in COLLECTIONS:
        if options.collections and collection.name not in options.collections:
            continue
        if not (root / collection.folder).exists():
            print(f"{collection.name}: left out, {root / collection.folder} is not there", file=sys.stderr)
            continue
        given = ["--quick"] if options.quick else []  # a folder is a path of this machine
        about = results.origin([*given, collection.name], "benchmarks.images")
        rows, picture = measured(collection, root, options.quick)
        found[collection.name] = {**about, "quick": options.quick, **machine, "rows": rows}
        keep(folder, found, collection, picture)
    if not found:
        print(f"no collection is in {root}; set AEMODELS_DATA to a folder that has some", file=sys.stderr)
        return 2
    print(as_markdown(found), end="")
    return 0


def earlier(folder: Path | None, quick: bool) -> dict[str, results.Result]:
    """Returns what is kept of collections in a folder, unless it was measured by the short form and this is not."""
    file = None if folder is None else folder / f"{NAME}.json"
    kept: dict[str, results.Result] = json.loads(file.read_text()) if file is not None and file.exists() else {}
    return {name: result for name, result in kept.items() if result["quick"] == quick}


def measured(collection: Collection, root: Path, quick: bool) -> tuple[list[dict[str, Any]], Picture]:
    """Trains all systems on a collection; returns a row of numbers for each, and what they draw."""
    data = finish(prepare(collection.config(root)))
    features = finish(features_of(data, CPU))
    rules = EvaluationConfig()
    systems: dict[str, Evidence] = reference_systems(data, [Size(LATENT, None)], CPU, rules, features)
    seconds = dict.fromkeys(systems, 0.0)
    for name, trained in trained_systems(data, quick).items():
        systems[name] = Evidence(trained.model, data, features, rules)
        seconds[name] = trained.seconds
    measured_of = {name: evaluate(evidence, METRICS).metrics for name, evidence in systems.items()}
    linear = measured_of[f"linear code {LATENT}"]["mse"]
    rows = []
    for name in systems:
        error, similar, distance = (measured_of[name][key] for key in METRICS)
        numbers = dict(zip(SHOWN, (error, error / linear, similar, distance, seconds[name]), strict=True))
        rows.append({"collection": collection.name, "images": data.sizes["train"], "system": name, **numbers})
        print(as_line(rows[-1]), file=sys.stderr, flush=True)
    drawn = {name: evidence for name, evidence in systems.items() if name != MEAN_IMAGE}
    return rows, side_by_side(drawn, f"Test images of {collection.name}")


def trained_systems(data: PreparedData, quick: bool) -> dict[str, Trained]:
    """Trains the project's autoencoder and VAE, and then each peer for as long as it took."""
    changes = {"training.epochs": 1, "training.images": min(QUICK_IMAGES, data.sizes["train"])} if quick else {}
    found: dict[str, Trained] = {}
    for kind in KINDS:
        own = found[f"aemodels {kind}"] = ours(data, kind, changes)
        for peer, train in PEERS.items():
            if peer == "pythae" and lacks(["pythae"]):
                print("pythae is left out, it is not installed", file=sys.stderr)
                continue
            found[f"{peer} {kind}"] = train(data, kind, own.seconds)
    return found


def keep(folder: Path | None, found: Mapping[str, results.Result], collection: Collection, picture: Picture) -> None:
    """Writes numbers and table of all collections, and the picture of this one, into a folder, if there is one."""
    if folder is None:
        return
    results.write(folder / f"{NAME}.json", dict(found))
    write_whole(folder / f"{NAME}.md", lambda path: path.write_text(as_markdown(found), encoding="utf-8"))
    drawn = Image.fromarray(picture)
    write_whole(folder / f"{NAME}-{collection.name}.png", partial(drawn.save, format="PNG"))


def as_markdown(found: Mapping[str, results.Result]) -> str:
    """Writes the table of all collections and systems."""
    names = [collection.name for collection in COLLECTIONS if collection.name in found]
    rows = [row for name in names for row in found[name]["rows"]]
    made = "; ".join(f"{name} on {found[name]['hardware']['cpu']}, commit {found[name]['commit']}" for name in names)
    head = f"| collection | system | {' | '.join(SHOWN)} |\n| --- | --- |{' ---: |' * len(SHOWN)}"
    note = (
        f"Codes of {LATENT} numbers, test images. Peers were given the seconds that the project's default took. "
        "Share is of the squared error of a linear code of the same size; the Frechet distance is of new images, from "
        "a mixture fitted to training codes where a peer has no prior."
    )
    return (
        "\n".join(["# Own images at equal time", "", head, *map(as_line, rows), "", note, "", f"Measured: {made}."])
        + "\n"
    )


def as_line(row: dict[str, Any]) -> str:
    """Writes a row of the table."""
    return f"| {row['collection']} | {row['system']} | {' | '.join(number(row[key]) for key in SHOWN)} |"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"{error}")
