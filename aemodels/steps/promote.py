"""Compares a challenger with the champion on the same images, and lets the gate decide which is the champion."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from aemodels.checkpoints.checkpoint import load_card, load_model
from aemodels.config import UserError
from aemodels.data import DataConfig, PreparedData
from aemodels.data.folder import FolderConfig
from aemodels.data.image_files import has_images
from aemodels.evaluation.evaluate import measuring
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features, features_of
from aemodels.evaluation.leaving_out import make_each
from aemodels.reports.figures.model import sample_grid
from aemodels.runtime.devices import best_device
from aemodels.runtime.environment import store_folder
from aemodels.runtime.files import at_path
from aemodels.runtime.progress import Progress, Steps, finish
from aemodels.settings import Settings
from aemodels.steps.recording import Result, is_of
from aemodels.tracking.catalog import ModelVersion, Registered, champion, find_registered, get
from aemodels.tracking.gate import Decision, Judged, Review, decide, measured_for, reviewed
from aemodels.tracking.registry import BY_GATE, IS_CHAMPION, conclude, deciding, keep_review, said_by_champion
from aemodels.tracking.store import Store, open_store

# No decision hangs on the test images, whose numbers are reported: among many challengers the luckiest would win.
JUDGED_ON = "val"


class Promotion(Result):
    """Holds what the gate decided about a version."""

    name: str
    version: int
    promoted: bool
    already: bool
    """Tells whether it was the champion before it was asked about; `reason` then tells what was decided earlier."""
    reason: str
    numbers: dict[str, float]
    champion: int | None
    """Names the version that is champion after the decision."""
    url: str


class SideBySide(Result):
    """Shows challenger and champion side by side, before anything is decided for good."""

    name: str
    versions: dict[str, int]
    """Maps `challenger` and `champion` to their versions; there may be no champion yet."""
    metrics: dict[str, dict[str, str]]
    """Maps `challenger` and `champion` to what the gate goes by, on the same images, each number with its error."""
    promote: bool
    """Tells whether the gate would promote the challenger."""
    reason: str
    pictures: dict[str, Path]
    """Maps `challenger` and `champion` to pictures of their samples, drawn from the same noise."""
    url: str


class _Weighed(NamedTuple):
    """Holds what the gate says of a version, and what it goes by."""

    decision: Decision
    judged: dict[str, Judged]  # challenger, and champion if there is another one
    old: int | None  # the champion's version


def check(settings: Settings) -> None:
    """Refuses settings whose model the gate would decline, before a search and a training are done for nothing.

    Raises:
        UserError: the champion knows more folders of images.
    """
    store = open_store()
    old = champion(store, settings.registered_name)
    if old is not None and (forgotten := _forgotten(settings.data, old, store)):
        raise UserError(
            f"data.path: the champion of {settings.registered_name} was trained on the images of {forgotten} too; add "
            "that folder. To leave it out, run `aemodels train`, and `aemodels promote` for the new version"
        )


def side_by_side(settings: Settings, data: PreparedData, version: ModelVersion) -> Steps[SideBySide]:
    """Compares a version with the champion for a person who is to approve its promotion; changes nothing."""
    store = open_store()
    yield Progress(f"measuring {version.name} and its champion", 0, 1)
    features = yield from features_of(data, best_device())
    weighed = _weigh(settings, data, features, version, store)
    versions = {"challenger": version.version} | ({"champion": weighed.old} if weighed.old is not None else {})
    folder = store_folder() / "comparisons" / f"{version.name}-{version.version}"
    folder.mkdir(parents=True, exist_ok=True)
    models = {
        role: load_model(find_registered(f"{version.name}/{number}", store), str(best_device())).model
        for role, number in versions.items()
    }
    seed = settings.evaluation.seed
    grids = make_each({role: partial(sample_grid, model, seed) for role, model in models.items()}).found
    pictures = {role: folder / f"{role}.png" for role in grids}
    for role, grid in grids.items():
        with at_path(pictures[role]):
            Image.fromarray(grid).save(pictures[role])
    yield Progress(f"measuring {version.name} and its champion", 1, 1)
    return SideBySide(
        name=version.name,
        versions=versions,
        metrics={role: {name: judged.told(name) for name in judged.metrics} for role, judged in weighed.judged.items()},
        promote=weighed.decision.promote,
        reason=weighed.decision.reason,
        pictures=pictures,
        url=store.registry_url(version.name, version.version),
    )


def promote(
    settings: Settings, data: PreparedData, version: ModelVersion, review: Review | None = None
) -> Steps[Promotion]:
    """Makes the version the champion if the gate finds it surely better, and good in itself.

    Args:
        review: what a person says, who can decline what the gate allows.
    """
    store = open_store()
    work = f"gate of {version.name}"
    yield Progress(work, 0, 1)
    features = yield from features_of(data, best_device())
    with deciding(store, version.name):
        before = champion(store, version.name)
        decision = _decide(settings, data, features, version, store, review)
    now = champion(store, version.name)
    yield Progress(work, 1, 1, decision.reason)
    return Promotion(
        name=version.name,
        version=version.version,
        promoted=decision.promote,
        already=before is not None and before.version.version == version.version,
        reason=decision.reason,
        numbers=decision.numbers,
        champion=now.version.version if now else None,
        url=store.registry_url(version.name, version.version),
    )


def _decide(
    settings: Settings,
    data: PreparedData,
    features: Features,
    version: ModelVersion,
    store: Store,
    review: Review | None,
) -> Decision:
    """Decides about a version and carries it out; asked again about the champion, it returns the earlier decision."""
    old = champion(store, version.name)
    if old is not None and old.version.version == version.version:
        if review is not None and review.id and not said_by_champion(old, review.id):
            late = f"{review.verdict}; {IS_CHAMPION}"  # another person's approval came first
            keep_review(store, version, review, late)
            return Decision(False, late, {})
        by_gate = old.tags.get("gate.decision") == "promoted" and old.tags.get("gate.by", "").startswith(BY_GATE)
        return Decision(by_gate, old.tags["gate.reason"] if by_gate else IS_CHAMPION, {})
    weighed = _weigh(settings, data, features, version, store)
    now = champion(store, version.name)
    if (now.version.version if now else None) != weighed.old:  # another machine has decided meanwhile
        return _decide(settings, data, features, version, store, review)
    decision = weighed.decision if review is None else reviewed(weighed.decision, review)
    conclude(store, version, decision, review)
    return decision


def _weigh(settings: Settings, data: PreparedData, features: Features, version: ModelVersion, store: Store) -> _Weighed:
    """Measures a version and the champion on the same images, and returns what the gate says of them."""
    challenger, old = get(store, version.name, version.version), champion(store, version.name)
    new = _judged(settings, data, features, challenger, store) or Judged({})
    meant = f"`aemodels promote {version.name} {version.version}` if that is meant"
    number = old.version.version if old is not None else None
    if number == version.version:
        return _Weighed(Decision(False, IS_CHAMPION, {}), {"challenger": new, "champion": new}, number)
    if not is_of(challenger.digest, data):
        reason = "it was trained on other images (by other data settings, or folders that have changed since), perhaps "
        reason += f"on some of these; train it again, or {meant}"
        return _Weighed(Decision(False, reason, {}), {"challenger": new}, number)
    primary, rules = settings.evaluation.primary, settings.registry
    if old is None:
        return _Weighed(decide(new, None, primary, rules), {"challenger": new}, None)
    known = _judged(settings, data, features, old, store)
    if known is None:
        reason = f"the champion takes images of another shape or of other classes; {meant}, or another registry.name"
        return _Weighed(Decision(False, reason, {}), {"challenger": new}, number)
    decision = decide(new, known, primary, rules)
    if not is_of(old.digest, data):
        if forgotten := _forgotten(settings.data, old, store):
            reason = f"the champion was trained on {forgotten} too; add that to data.path, or {meant}"
            decision = Decision(False, reason, {})
        else:
            reason = f"{decision.reason}; the champion was trained on other images, perhaps on some of these"
            decision = decision._replace(reason=reason)
    return _Weighed(decision, {"challenger": new, "champion": known}, number)


def _forgotten(source: DataConfig, old: Registered, store: Store) -> str:
    """Returns a folder of the champion's images that these settings leave out though they have its others; "" if none.

    After a drift the champion was trained on the old images and the new ones, and is not to be judged by the old ones
    alone.
    """
    if not isinstance(source, FolderConfig):
        return ""
    known = load_card(find_registered(f"{old.version.name}/{old.version.version}", store)).experiment.data
    if not isinstance(known, FolderConfig) or not all(map(known.holds, source.path)):
        return ""
    # a folder that was moved or emptied has no images any more
    left_out = (folder for folder in known.path if not source.holds(folder) and has_images(folder))
    return str(next(left_out, ""))


def _judged(
    settings: Settings, data: PreparedData, features: Features, registered: Registered, store: Store
) -> Judged | None:
    """Measures a model on these images; returns None if it cannot take them."""
    name, version, _ = registered.version
    model, card = load_model(find_registered(f"{name}/{version}", store), str(best_device()))
    if card.image_shape != data.image_shape or (model.conditional and card.classes != data.classes):
        return None
    rules, trained_on = settings.evaluation, card.trained_on(data)
    # More samples than there are images make a distance surer, and decisions rest on it.
    evidence = Evidence(model, data, features, rules, JUDGED_ON, trained_on, drawn=rules.samples)
    # A linear code is of grey images, to which black and white ones are never as near.
    unfair = {"frechet_linear_code"} if data.binarize != "none" else set()
    names = [name for name in measured_for(rules.primary, settings.registry) if name not in unfair]
    found = finish(measuring(evidence, names))
    return Judged(found.metrics, found.estimates, found.left_out, math.prod(data.image_shape))
