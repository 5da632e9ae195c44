"""Checks whether new images are still like those that a model was made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aemodels.config import UserError
from aemodels.data import DataConfig, PreparedData, prepare, prepared_before
from aemodels.data.decoding import key_of
from aemodels.data.encoded import reading_later
from aemodels.data.evaluation_images import keys_of
from aemodels.data.folder import FolderConfig
from aemodels.data.image_files import ImageFiles, Looked, image_files, read_images
from aemodels.data.splits import SPLITS
from aemodels.evaluation.drift import CodeSpace, MonitoringConfig, Scores, Verdict, check_scores, fewest
from aemodels.evaluation.leaving_out import Made, as_tags, make_each
from aemodels.reports.figures.drift import histograms, worst
from aemodels.reports.pictures import Picture
from aemodels.runtime import torchrun
from aemodels.runtime.environment import store_folder
from aemodels.runtime.progress import Progress, Steps
from aemodels.serving.answers import Question
from aemodels.serving.model import Model
from aemodels.steps.recording import Result, save_figures, show_figures
from aemodels.texts import in_markdown
from aemodels.tracking.catalog import CHAMPION, find_registered, get
from aemodels.tracking.origin import standard_tags
from aemodels.tracking.run import Run, start_run
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
    """Lists the files that cannot be read as images, each with the reason."""
    unused: str = ""
    """Says which files in the folders are no images; empty where all are."""
    notes: tuple[str, ...] = ()
    """Says what a person should know about how the images were read."""
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


class _Champion(NamedTuple):
    """Holds a champion, and the data that it was trained on."""

    version: int
    model: Model
    data: PreparedData

    @property
    def reference(self) -> str:
        return self.model.name

    @property
    def source(self) -> DataConfig:
        return self.model.card.experiment.data


class _New(NamedTuple):
    """Holds the new image files, and what was read of the newest of them."""

    present: int  # files, in all
    files: list[Path]  # the newest ones
    looked: Looked  # what became of them
    known: int  # images that were read, and are among those that the model was made from
    images: NDArray[np.uint8]  # (N, C, H, W), the others


class _Checked(NamedTuple):
    test: Scores
    new: Scores
    verdict: Verdict


class _Compared(NamedTuple):
    """Holds what a comparison came to; `checked` is None where there were too few images."""

    alarms: tuple[str, ...]
    numbers: dict[str, float]
    checked: _Checked | None
    too_few: tuple[str, ...]


def monitor(name: str, paths: Sequence[Path], config: MonitoringConfig, group: str = "") -> Steps[Monitored]:
    """Compares new images with the test images, as the champion sees them, in a run of its own.

    Args:
        name: the name of a registered model.
        paths: image files, or folders of them; the newest ones are compared.
        group: who asks, such as the id of a flow run; a tag of the check's run.

    Raises:
        UserError: there is no champion, no encoder or no such folder, the test images are not the champion's, or a file
            that was given itself cannot be read.
    """
    torchrun.refuse("a check")
    found = image_files(paths)
    store = open_store()
    champion = yield from _champion(store, name)
    yield Progress("checking", 0, 1)
    new = _read(found, paths, champion, config)
    compared = _compare(champion, new, config)
    tags = _tags(champion, new, compared, group)
    with start_run(store, name, f"check of {len(new.files)} images", tags) as run:
        repeated = bool(compared.alarms) and _repeated(store, run, champion.reference, new.present)
        _record(run, {"paths": [str(path) for path in paths], **config.flat()}, new, compared)
        drawn = _draw(champion.model, new.images, compared, run)
    yield Progress("checking", 1, 1, "alarm" if compared.alarms else "no alarm")
    return Monitored(
        model=name,
        version=champion.version,
        images=len(new.images),
        unfit=tuple(new.looked.unfit),
        unused=found.told,
        notes=tuple(note for note in new.looked.notes if not any(note in alarm for alarm in compared.alarms)),
        drift=bool(compared.alarms),
        reasons=compared.alarms or compared.too_few,
        numbers=compared.numbers,
        repeated=repeated,
        retraining=_retraining(champion, paths, compared.checked),
        run_id=run.id,
        url=run.url,
        figures=tuple(drawn.found.values()),
        left_out=drawn.left_out,
    )


def _champion(store: Store, name: str) -> Steps[_Champion]:
    """Opens the champion, which must be able to look at images, and the data that it was trained on."""
    version = get(store, name, CHAMPION).version.version
    reference = f"{name}/{version}"
    model = Model.open(find_registered(reference, store), reference)
    model.require_encoder()
    return _Champion(version, model, (yield from _own_data(model)))


def _read(found: ImageFiles, paths: Sequence[Path], champion: _Champion, config: MonitoringConfig) -> _New:
    """Reads the newest files, as the model's own images were read."""
    newest = sorted(found.files, key=lambda file: file.stat().st_mtime_ns)[-config.newest :]
    source = champion.source
    read, looked = read_images(found._replace(files=newest), champion.data.image_shape, reading_later(source))
    folders = source if isinstance(source, FolderConfig) else None
    belong = folders is not None and any(map(folders.holds, paths))
    images = _unknown(read.images, champion.data) if belong else read.images
    return _New(len(found.files), newest, looked, len(read.images) - len(images), images)


def _compare(champion: _Champion, new: _New, config: MonitoringConfig) -> _Compared:
    """Compares the new images with the test images, if there are enough of both; files that do not fit alarm too."""
    known = _some(champion.data.split("test").images)
    needed = fewest(len(known), config)
    unfit = _unfit_reasons(new.looked.unfit, len(new.files), config)
    counted: dict[str, float] = {"unfit": len(new.looked.unfit)}
    if len(new.images) >= needed:
        checked = _check(champion, known, new.images, config)
        cause = (f"a likely cause: {new.looked.dark}",) if checked.verdict.reasons and new.looked.dark else ()
        alarms = (*checked.verdict.reasons, *cause, *unfit)
        return _Compared(alarms, checked.verdict.numbers | counted, checked, ())
    never = needed > config.newest
    why = _too_few_known(champion.reference, len(known), config) if never else _too_few(new, needed)
    return _Compared(unfit, {"images": len(new.images)} | counted, None, (why,))


def _tags(champion: _Champion, new: _New, compared: _Compared, group: str) -> dict[str, str]:
    return {
        "kind": "monitoring",
        "pipeline": group,
        "model": champion.reference,
        "images": str(new.present),
        "drift": str(bool(compared.alarms)).lower(),
    } | standard_tags(0, "")


def _record(run: Run, params: Mapping[str, Any], new: _New, compared: _Compared) -> None:
    """Tracks how was compared, and what it came to."""
    run.params(params)
    run.metrics({f"drift/{key}": value for key, value in compared.numbers.items()})
    told = "\n".join(f"* {in_markdown(line)}" for line in (*compared.alarms, *new.looked.unfit))
    run.text("reasons.md", told or "No alarm.")


def _too_few_known(reference: str, known: int, config: MonitoringConfig) -> str:
    """Says why new images cannot be compared with the model's few test images, however many new ones there are."""
    told = f"new images cannot be compared with {reference}, which has too few test images ({known}): "
    least = next((m for m in range(known, MOST) if fewest(m, config) <= config.newest), None)
    if least is None:
        needed = fewest(known, config)
        return f"{told}at least {needed} new images are needed, and monitoring.newest={config.newest} looks at fewer"
    return f"{told}at least {least} are needed where the newest {config.newest} images are looked at; train it on more"


def _too_few(new: _New, needed: int) -> str:
    """Says why the new images are too few to compare, and what became of the files."""
    some = f", of which the newest {len(new.files)} were read" if len(new.files) < new.present else ""
    found = [f"{new.present} image files{some}"]
    if unfit := new.looked.unfit:
        found.append(f"{len(unfit)} cannot be read as images of the model's shape, such as {unfit[0]}")
    if new.known:
        found.append(f"{new.known} are among the images that the model was made from")
    return f"{len(new.images)} new images are too few: at least {needed} are needed; found: {'; '.join(found)}"


def _own_data(model: Model) -> Steps[PreparedData]:
    """Returns the data that the model was trained on, with whose test images new ones are compared.

    Their folder may hold more by now, so what was prepared then is taken where it is still there.
    """
    config, digest = model.card.experiment.data, model.card.digest
    if (before := prepared_before(config, digest)) is not None:
        return before
    data = yield from prepare(config)
    if data.digest != digest:
        raise UserError(
            f"{model.name}: it was trained on the data {digest}, its source now gives {data.digest}, and the old "
            "data are not in AEMODELS_CACHE any more; restore either, or train on the present images and promote that"
        )
    return data


def _check(
    champion: _Champion, known: NDArray[np.uint8], images: NDArray[np.uint8], config: MonitoringConfig
) -> _Checked:
    """Scores the known test images and the new ones alike."""
    space = CodeSpace(champion.model.encode(_some(champion.data.split("train").images)))
    test, new = _score(champion.model, known, space), _score(champion.model, images, space)
    return _Checked(test, new, check_scores(test, new, config))


def _unknown(images: NDArray[np.uint8], data: PreparedData) -> NDArray[np.uint8]:
    """Leaves out the model's own images, to which the folder of new ones belongs after a retraining."""
    known = keys_of(data, SPLITS)
    return images[[key_of(image) not in known for image in images]]


def _some(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Takes at most MOST images, evenly spread."""
    return np.ascontiguousarray(images[:: -(-len(images) // MOST)])


def _score(model: Model, images: NDArray[np.uint8], space: CodeSpace) -> Scores:
    return Scores(model.score(images), space.distances(model.encode(images)))


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


def _retraining(champion: _Champion, paths: Sequence[Path], checked: _Checked | None) -> dict[str, object] | None:
    """Adds new folders, of whose images there is an alarm, to the model's own.

    Where a CSV file has no labels of the new images, a model that needs none is retrained without labels. It returns
    None where the model's own images are in no folders, or the new ones do not fit.
    """
    if checked is None or not checked.verdict.reasons:
        return None
    source = champion.source
    if not isinstance(source, FolderConfig) or not all(path.is_dir() for path in paths):
        return None
    choices = [source]
    if source.labels is not None and not champion.model.network.conditional:
        choices.append(source.override({"labels": None}))
    for choice in choices:
        with suppress(UserError):  # such as class folders on one side only
            return choice.with_folders(paths).model_dump(mode="json")
    return None


def _draw(model: Model, images: NDArray[np.uint8], compared: _Compared, run: Run) -> Made[Path]:
    """Draws the pictures of a check into its run, those of an alarm into a folder too; tells why others are missing."""
    if (checked := compared.checked) is None:
        return Made({}, {})
    order = np.argsort(-checked.new.errors)[:64]

    def draw_distributions() -> Picture:
        return histograms(checked.test, checked.new)

    def draw_worst() -> Picture:
        reconstructed, _ = model.answer(images[order], Question("reconstruct", range="bytes"))
        return worst(images[order], reconstructed, checked.new.errors[order])

    pictures, left_out = make_each({"distributions": draw_distributions, "worst": draw_worst})
    run.tags(as_tags(left_out))
    show_figures(pictures, run)
    if not compared.alarms:  # a check an hour would fill this disk
        return Made({}, left_out)
    place = store_folder() / "checks" / run.id
    place.mkdir(parents=True)
    return Made(dict(zip(pictures, save_figures(pictures, place), strict=True)), left_out)
