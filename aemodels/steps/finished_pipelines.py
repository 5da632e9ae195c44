"""Keeps a pipeline's result beside its model, so that the same images and settings need no second pipeline.

Every machine finds it: a tag of the registered version tells what the pipeline was given, and an artifact of the
version's run holds the result.
"""

from __future__ import annotations

from aemodels.checkpoints.result_keys import result_key
from aemodels.data import PreparedData
from aemodels.settings import Settings
from aemodels.steps.promote import Promotion
from aemodels.steps.recording import Result
from aemodels.steps.train import Trained
from aemodels.steps.tune import Tuned
from aemodels.tracking.catalog import ORIGIN, Registered, champion, get, made_from
from aemodels.tracking.registry import GATE
from aemodels.tracking.run import Run
from aemodels.tracking.store import open_store

FILE = "pipeline.json"


class Finished(Result):
    """Holds the results of all stages of a finished pipeline."""

    data: PreparedData
    tuned: Tuned
    trained: Trained
    promotion: Promotion
    asked: str
    """Names the flow run that did the work, by its id."""
    new: bool = True
    """Tells whether this pipeline did the work; False where an earlier one had, which all else then tells of."""


def origin(settings: Settings, data: PreparedData) -> str:
    """Returns a hash of all that a pipeline's outcome depends on: the images, the settings and this project's release.

    Where the images lie does not count, nor whether a pipeline is wanted again, nor how much is measured of its model.
    """
    unasked = {"data": {"path"}, "registry": {"repeat"}, "evaluation": {"level"}}
    given = settings.model_dump(mode="json", exclude=unasked)
    return result_key(given, data)


def keep(settings: Settings, finished: Finished) -> None:
    """Keeps the result; the tag comes last, so that whoever finds it finds the result too."""
    store, made = open_store(), finished.trained.version
    Run(store, made.run_id, store.experiment(made.name)).text(FILE, finished.model_dump_json())
    store.client.set_model_version_tag(made.name, str(made.version), ORIGIN, origin(settings, finished.data))


def find(settings: Settings, data: PreparedData) -> Finished | None:
    """Returns the result of the latest pipeline that was given the same; None where it or its run is not there."""
    store = open_store()
    made = made_from(store, settings.registered_name, origin(settings, data))
    if made is None:
        return None
    text = Run(store, made.version.run_id, store.experiment(made.version.name)).read(FILE)
    return None if text is None else Finished.model_validate_json(text)


def nothing_new(before: Finished) -> Finished:
    """Turns an earlier result into that of a pipeline that had nothing to do, and names the present champion."""
    store, made = open_store(), before.trained.version
    now = champion(store, made.name)
    known = get(store, made.name, made.version)
    reason = f"nothing new since version {made.version}, which the same images and settings gave: {_verdict(known)}; "
    reason += f"the champion is {f'version {now.version.version}' if now else 'none'}; "
    reason += "registry.repeat=true searches and trains all the same"
    promotion = before.promotion.model_copy(
        update={
            "promoted": False,
            "already": now is not None and now.version == made,
            "reason": reason,
            "champion": now.version.version if now else None,
        }
    )
    return before.model_copy(update={"promotion": promotion, "new": False})


def _verdict(made: Registered) -> str:
    """Says what the gate or a person has decided about a version in the end."""
    decision, by, reason = (made.tags.get(f"{GATE}{key}", "") for key in ("decision", "by", "reason"))
    return f"{decision} by {by} ({reason})"
