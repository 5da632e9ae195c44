"""Checks whether new images are still like those that a model was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aemodels.checkpoints.checkpoint import Loaded, load_model
from aemodels.config import UserError
from aemodels.data import DataConfig, PreparedData, prepare, prepared_before
from aemodels.data.folder import FolderConfig
from aemodels.data.image_files import Fitting, fitting_images, image_files
from aemodels.data.prepared import SPLITS
from aemodels.evaluation.drift import CodeSpace, MonitoringConfig, Scores, Verdict, check_scores, fewest
from aemodels.evaluation.leaving_out import Made, as_tags, make_each
from aemodels.models.base import Autoencoder
from aemodels.reports.figures.drift import histograms, worst
from aemodels.reports.pictures import Picture
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.runtime.environment import store_folder
from aemodels.runtime.progress import Progress, Steps
from aemodels.serving.answers import Question, answer
from aemodels.steps.recording import Result, save_figures, show_figures
from aemodels.texts import in_markdown
from aemodels.tracking.catalog import CHAMPION, find, get
from aemodels.tracking.run import Run, standard_tags, start_run
from aemodels.tracking.store import Store, open_store

ANNOUNCED = "retraining.announced"  # the tag of a check's run whose alarm has asked for a retraining
MOST = 10_000  # images of a split: enough for the tests, and soon scored


class Monitored(Result):
    """Holds what a finished check of new images found."""

    model: str
    version: int
    images: int
    """Counts the new images that were compared, without those that are in the champion's own data."""
    unfit: tuple[str, ...]
    """Lists the files that are no images of the model's shape, each with the reason."""
    drift: bool
    reasons: tuple[str, ...]
    """Says why there is an alarm, or why there was nothing to compare."""
    numbers: dict[str, float]
    repeated: bool
    """Tells whether an alarm about this version has asked for a retraining, and the images have not doubled since."""
    retraining: dict[str, object] | None
    """Holds `data` of a pipeline's settings for the old and new images together; None where that is not possible."""
    run_id: str
    url: str
    figures: tuple[Path, ...]
    """Lists the figures of an alarm on this disk; the run has those of every check."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Maps each figure that could not be drawn to the reason."""


class _Checked(NamedTuple):
    test: Scores
    new: Scores
    verdict: Verdict


def monitor(name: str, paths: Sequence[Path], config: MonitoringConfig, group: str = "") -> Steps[Monitored]:
    """Compares new images with the test images, as the champion sees them, in a run of its own.

    Args:
        name: the name of a registered model.
        paths: image files, or folders of them; the newest ones are compared.
        group: who asks, such as the id of a flow run; a tag of the check's run.

    Raises:
        UserError: there is no champion, no encoder or no such folder, or the test images are not the champion's.
    """
    torchrun.refuse("a check")
    present = sorted(image_files(paths), key=lambda file: file.stat().st_mtime_ns)
    files = present[-config.newest :]
    store = open_store()
    champion = get(store, name, CHAMPION)
    reference = f"{name}/{champion.version.version}"
    loaded = load_model(find(reference, store), str(best_device()))
    if not isinstance(loaded.model, Autoencoder):
        raise UserError(f"{reference}: the model has no encoder, so it cannot check images; promote an autoencoder")
    data = yield from _own_data(loaded, reference)
    yield Progress("checking", 0, 1)
    source = loaded.card.experiment.data
    read = fitting_images(files, data.image_shape, crop=isinstance(source, FolderConfig) and source.fit == "crop")
    images = read.images
    if isinstance(source, FolderConfig) and any(map(source.holds, paths)):
        images = _unknown(images, data)
    known = _some(data.split("test").images)
    needed = fewest(len(known), config)
    checked = _check(loaded.model, data, known, images, config) if len(images) >= needed else None

    def no_answer() -> str:
        if needed > config.newest:
            return _too_few_known(reference, len(known), config)
        return _too_few(len(images), needed, read, len(files), len(present))

    reasons = (*(checked.verdict.reasons if checked else ()), *_unfit_reasons(read.unfit, len(files), config))
    numbers = (checked.verdict.numbers if checked else {"images": len(images)}) | {"unfit": len(read.unfit)}
    tags = {
        "kind": "monitoring",
        "pipeline": group,
        "model": reference,
        "images": str(len(present)),
        "drift": str(bool(reasons)).lower(),
    }
    with start_run(store, name, f"check of {len(files)} images", tags | standard_tags(0, "")) as run:
        repeated = bool(reasons) and _repeated(store, run, reference, len(present))
        run.params({"paths": [str(path) for path in paths], **config.flat()})
        run.metrics({f"drift/{key}": value for key, value in numbers.items()})
        run.text("reasons.md", "\n".join(f"* {in_markdown(line)}" for line in (*reasons, *read.unfit)) or "No alarm.")
        place = store_folder() / "checks" / run.id if reasons else None  # a check an hour would fill this disk
        drawn = _draw(loaded.model, images, checked, run, place) if checked else Made({}, {})
    yield Progress("checking", 1, 1, "alarm" if reasons else "no alarm")
    return Monitored(
        model=name,
        version=champion.version.version,
        images=len(images),
        unfit=read.unfit,
        drift=bool(reasons),
        reasons=reasons or (() if checked else (no_answer(),)),
        numbers=numbers,
        repeated=repeated,
        retraining=_retraining(source, paths) if checked and checked.verdict.reasons else None,
        run_id=run.id,
        url=run.url,
        figures=tuple(drawn.found.values()),
        left_out=drawn.left_out,
    )


def _too_few_known(reference: str, known: int, config: MonitoringConfig) -> str:
    """Says why new images cannot be compared with the model's few test images, however many new ones there are."""
    told = f"new images cannot be compared with {reference}, which has too few test images ({known}): "
    least = next((m for m in range(known, MOST) if fewest(m, config) <= config.newest), None)
    if least is None:
        needed = fewest(known, config)
        return f"{told}at least {needed} new images are needed, and monitoring.newest={config.newest} looks at fewer"
    return f"{told}at least {least} are needed where the newest {config.newest} images are looked at; train it on more"


def _too_few(new: int, needed: int, read: Fitting, looked_at: int, present: int) -> str:
    """Says why the new images are too few to compare, and what became of the files."""
    found = f"{present} image files" + (f", of which the newest {looked_at} were read" if looked_at < present else "")
    lost = []
    if read.unfit:
        lost.append(f"{len(read.unfit)} cannot be read as images of the model's shape, such as {read.unfit[0]}")
    if seen := len(read.images) - new:
        lost.append(f"{seen} are among the images that the model was made from")
    return f"{new} new images are too few: at least {needed} are needed; found: " + "; ".join([found, *lost])


def _own_data(loaded: Loaded, reference: str) -> Steps[PreparedData]:
    """Returns the data that the model was trained on, with whose test images new ones are compared.

    Their folder may hold more by now, so what was prepared then is taken where it is still there.
    """
    config, digest = loaded.card.experiment.data, loaded.card.digest
    if (before := prepared_before(config, digest)) is not None:
        return before
    data = yield from prepare(config)
    if data.digest != digest:
        raise UserError(
            f"{reference}: it was trained on the data {digest}, its source now gives {data.digest}, and the old data "
            "are no longer in AEMODELS_CACHE; restore either, or train on the present images and promote that model"
        )
    return data


def _check(
    model: Autoencoder,
    data: PreparedData,
    known: NDArray[np.uint8],
    images: NDArray[np.uint8],
    config: MonitoringConfig,
) -> _Checked:
    """Scores the known test images and the new ones alike."""
    space = CodeSpace(answer(model, _some(data.split("train").images), Question("embed", range="bytes")))
    test, new = _score(model, known, space), _score(model, images, space)
    return _Checked(test, new, check_scores(test, new, config))


def _unknown(images: NDArray[np.uint8], data: PreparedData) -> NDArray[np.uint8]:
    """Leaves out the model's own images, to which the folder of new ones belongs after a retraining."""
    known = {_stamp(image) for split in SPLITS for image in data.split(split).images}
    return images[[_stamp(image) not in known for image in images]]


def _stamp(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _some(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Takes at most MOST images, evenly spread."""
    return np.ascontiguousarray(images[:: -(-len(images) // MOST)])


def _score(model: Autoencoder, images: NDArray[np.uint8], space: CodeSpace) -> Scores:
    codes = answer(model, images, Question("embed", range="bytes"))
    return Scores(answer(model, images, Question("score", range="bytes")), space.distances(codes))


def _unfit_reasons(unfit: Sequence[str], total: int, config: MonitoringConfig) -> tuple[str, ...]:
    if len(unfit) <= config.anomalies * total:
        return ()
    return (f"{len(unfit)} of {total} files cannot be read as images of the model's shape, such as {unfit[0]}",)


def announced(monitored: Monitored) -> None:
    """Notes in the check's run that a retraining was asked for; before, a check that is done again asks once more."""
    open_store().client.set_tag(monitored.run_id, ANNOUNCED, "true")


def _repeated(store: Store, run: Run, reference: str, files: int) -> bool:
    """Tells whether a retraining was asked for about this version when there were more than half as many files."""
    asked = f"tags.model = '{reference}' and tags.`{ANNOUNCED}` = 'true'"
    found = store.client.search_runs([run.experiment_id], asked, max_results=1000)
    return any(2 * int(one.data.tags["images"]) > files for one in found)


def _retraining(source: DataConfig, paths: Sequence[Path]) -> dict[str, object] | None:
    """Adds the new folders to the model's own; None where its images are in no folders, or these do not fit."""
    if not isinstance(source, FolderConfig) or not all(path.is_dir() for path in paths):
        return None
    try:
        return source.with_folders(paths).model_dump(mode="json")
    except UserError:  # such as class folders on one side only
        return None


def _draw(model: Autoencoder, images: NDArray[np.uint8], checked: _Checked, run: Run, place: Path | None) -> Made[Path]:
    """Draws the pictures of a check into its run, and into a folder if one is given; tells why others are missing."""
    order = np.argsort(-checked.new.errors)[:64]

    def draw_distributions() -> Picture:
        return histograms(checked.test, checked.new)

    def draw_worst() -> Picture:
        reconstructed = answer(model, images[order], Question("reconstruct", range="bytes"))
        return worst(images[order], reconstructed, checked.new.errors[order])

    pictures, left_out = make_each({"distributions": draw_distributions, "worst": draw_worst})
    run.tags(as_tags(left_out))
    show_figures(pictures, run)
    if place is None:
        return Made({}, left_out)
    place.mkdir(parents=True)
    return Made(dict(zip(pictures, save_figures(pictures, place), strict=True)), left_out)
