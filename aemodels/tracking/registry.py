"""Registers models and moves the aliases challenger, champion and previous; catalog.py looks them up.

A version is made last, when its model is whole, and with all its tags at once: what is interrupted before leaves
nothing that counts. MLflow's registry page shows no metrics, so the key ones are tags of the version.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from aemodels.checkpoints.model_files import CHECKSUMS
from aemodels.checkpoints.model_files import digest as digest_of
from aemodels.config import NAME, UserError
from aemodels.runtime.environment import store_folder
from aemodels.runtime.files import in_words
from aemodels.serving.packing import pack
from aemodels.tracking.catalog import (
    CHALLENGER,
    CHAMPION,
    DIGEST,
    METRIC,
    PREVIOUS,
    ModelVersion,
    Registered,
    aliases_of,
    get,
    metric_tags,
)
from aemodels.tracking.gate import LONGEST_NAME, LONGEST_REASON, Decision, Review
from aemodels.tracking.history import DECISION, PROMOTED, REIGN, REJECTED, WITHOUT_EFFECT
from aemodels.tracking.origin import user_name
from aemodels.tracking.run import Run, forget_models, tag_text
from aemodels.tracking.store import Store, within_pages

GATE = "gate."  # the beginning of the tags of a decision
BY_GATE = "the gate"  # who decided, alone or with a person
IS_CHAMPION = "it is the champion already"
REPLACED = GATE + "replaced"  # the version that was champion before


def register(
    run: Run,
    folder: Path,
    name: str,
    metrics: Mapping[str, float],
    digest: str,
    tags: Mapping[str, Any] | None = None,
    headline: str = "",
) -> ModelVersion:
    """Registers the model of a run as a new version and challenger; a run has one version, which a second call finds.

    Args:
        folder: holds config.json, weights.safetensors and model.sha256.
        metrics: those on the test images, without prefix, the key ones first.
        digest: the digest of the data that they were measured on.
        headline: tells in a line which model it is; MLflow shows its beginning beside the version.

    Raises:
        UserError: the name cannot be used.
    """
    client = run.store.client
    if not re.fullmatch(NAME, name):
        raise UserError(f"registry.name={name}: use at most 100 letters, digits, '.', '_' and '-', no sign first")
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run.id}'")
    if known:  # a former attempt was killed between this step and the next
        _settle(run, known[0])
        if GATE + "decision" not in known[0].tags:
            client.set_registered_model_alias(name, CHALLENGER, known[0].version)
        return ModelVersion(name, int(known[0].version), run.id)
    texts = metric_tags(metrics) | {DIGEST: digest}
    texts |= {key: tag_text(value) for key, value in (tags or {}).items()}
    texts[CHECKSUMS] = digest_of((folder / CHECKSUMS).read_bytes())
    return _new_version(run, folder, name, metrics, texts, headline)


def _new_version(
    run: Run, folder: Path, name: str, metrics: Mapping[str, float], texts: dict[str, str], headline: str
) -> ModelVersion:
    """Makes the version with these tags, whole or not at all."""
    client = run.store.client
    model_id: str | None = None
    new_name = False
    try:
        logged = client.create_logged_model(run.experiment_id, name, run.id, texts)
        model_id = logged.model_id
        _log_model(run, folder, model_id, metrics)
        new_name = _ensure_model(run, name)
        with run.store.as_default():
            source, text = f"models:/{model_id}", f"{headline}\n\n{run.overview}" if headline else None
            made = client.create_model_version(name, source, run.id, texts, description=text, model_id=model_id)
        _settle(run, made)
        client.set_registered_model_alias(name, CHALLENGER, made.version)
    except BaseException:
        _withdraw(run, name, model_id, new_name)
        raise
    return ModelVersion(name, int(made.version), run.id)


def _settle(run: Run, version: Any) -> None:
    """Leaves the run one version, with its one model.

    A registration that was killed leaves a model without a version. MLflow's client asks a server that died before it
    answered a second time, which makes two versions.
    """
    client = run.store.client
    for one in client.search_model_versions(f"name = '{version.name}' and run_id = '{run.id}'"):
        if one.version != version.version:
            client.delete_model_version(one.name, one.version)
    forget_models(run.store, run.experiment_id, run.id)


def _log_model(run: Run, folder: Path, model_id: str, metrics: Mapping[str, float]) -> None:
    """Logs the packed model as an output of the run, with the run's test metrics as its own."""
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.models import Model

    client = run.store.client
    with tempfile.TemporaryDirectory() as scratch:
        describe: Any = Model  # untyped
        packed = Path(scratch) / "model"
        pack(folder, packed, describe(run_id=run.id, model_id=model_id))
        client.log_model_artifacts(model_id, str(packed))
    logged = [history[-1] for key in metrics if (history := client.get_metric_history(run.id, METRIC + key))]
    again = [Metric(one.key, one.value, one.timestamp, one.step, model_id=model_id) for one in logged]
    client.log_batch(run.id, metrics=again)  # same values, times and steps: no second point in the run
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run.id, [LoggedModelOutput(model_id, step=0)])


def _ensure_model(run: Run, name: str) -> bool:
    """Makes the registered model where there is none, and tells whether it did."""
    from mlflow.exceptions import MlflowException

    pictures = within_pages(run.store.pictures_url(run.experiment_id))
    text = f"[Pictures, test metrics and curves of all versions]({pictures})"
    try:
        run.store.client.create_registered_model(name, description=text)
        return True
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False


def _withdraw(run: Run, name: str, model_id: str | None, new_name: bool) -> None:
    """Deletes what a failed registration left; the error that made it fail is the one to see."""
    from mlflow.exceptions import MlflowException

    client = run.store.client
    try:
        for one in client.search_model_versions(f"name = '{name}' and run_id = '{run.id}'"):
            client.delete_model_version(name, one.version)
        if new_name and not client.search_model_versions(f"name = '{name}'"):
            client.delete_registered_model(name)
        if model_id is not None:
            client.delete_logged_model(model_id)
    except MlflowException as problem:
        told = in_words(problem) or problem
        logging.getLogger(__name__).warning("remains of the registration of run %s: %s", run.id, told)


# ---- promoting


@contextmanager
def deciding(store: Store, name: str) -> Iterator[None]:
    """Lets one process of this machine at a time decide on the champion, which it has to look up inside the block.

    Raises:
        UserError: there is no such model.
    """
    aliases_of(store, name)  # refuses a text that is no name, which must not become a path
    store_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(store_folder() / f"gate-{name}.lock", thread_local=False):
        yield


def conclude(store: Store, version: ModelVersion, decision: Decision, review: Review | None = None) -> None:
    """Writes what was decided on the version, and makes it the champion if that was the decision.

    Args:
        review: what a person says who was asked about a promotion that the gate allows.
    """
    numbers = {key: f"{value:.8g}" for key, value in decision.numbers.items()}
    by = BY_GATE if review is None else " and ".join({BY_GATE: 0, review.name: 0})
    if decision.promote:
        _crown(store, version, decision.reason, by, review.id if review else "", numbers)
    else:
        if review is not None:
            keep_review(store, version, review, decision.reason)
        _write(store, version, {"decision": "not promoted", "reason": decision.reason, "by": by} | numbers)


def promote(store: Store, name: str, version: int, reason: str = "", by: str = "", asked: str = "") -> Registered:
    """Makes a version the champion because a person wants it.

    Args:
        reason: why; it is kept with the version.
        by: who says so, if it is not this process's user.
        asked: an id of the request, if it may be made again: it is kept once.

    Raises:
        UserError: there is no such version, or the name or the reason is too long.
    """
    reason = _checked(reason, by)
    with deciding(store, name):
        chosen, told, by = get(store, name, version), _told("asked for", reason), by or user_name()
        if CHAMPION in chosen.aliases and not said_by_champion(chosen, asked):
            _keep(store, chosen.version, WITHOUT_EFFECT, f"{told}; {IS_CHAMPION}", by, asked)
        _crown(store, chosen.version, told, by, asked)
    return get(store, name, version)


def rollback(
    store: Store, name: str, version: int | None = None, reason: str = "", by: str = "", asked: str = ""
) -> Registered:
    """Makes the previous champion the champion, or the version that is given; one that is it already stays it.

    Args:
        reason: why; it is kept with the version.
        by: who says so, if it is not this process's user.
        asked: an id of the request, if it may be made again: it is kept once.

    Raises:
        UserError: there is no model to go back to, or the name or the reason is too long.
    """
    reason = _checked(reason, by)
    with deciding(store, name):
        now, before = aliases_of(store, name).get(CHAMPION), version or predecessor(store, name)
        chosen, by = get(store, name, before), by or user_name()
        if before != now:
            _crown(store, chosen.version, _told(f"rollback from version {now}", reason), by, asked)
        elif not said_by_champion(chosen, asked):
            _keep(store, chosen.version, WITHOUT_EFFECT, f"{_told('rollback', reason)}; {IS_CHAMPION}", by, asked)
    return get(store, name, before)


def _told(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def _checked(reason: str, by: str) -> str:
    """Returns the reason without blanks around it, if it and the name are not too long."""
    for key, text, most in (("reason", reason, LONGEST_REASON), ("by", by, LONGEST_NAME)):
        if len(text) > most:
            raise UserError(f"{key}={text[:40]}...: has {len(text):,} characters; give at most {most:,}")
    return reason.strip()


def predecessor(store: Store, name: str) -> int:
    """Returns the version that a rollback goes back to; after it, that is the one that it came from.

    Raises:
        UserError: there is none.
    """
    aliases = aliases_of(store, name)
    now, before = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    if now is not None and before == now:  # a promotion was killed between its two aliases
        former = get(store, name, now).tags.get(REPLACED, "")
        before = int(former) if former else None
    if before is None:
        raise UserError(f"{name}: no previous champion to go back to; choose one: aemodels promote {name} VERSION")
    return before


def _crown(
    store: Store,
    version: ModelVersion,
    reason: str,
    by: str,
    asked: str = "",
    numbers: Mapping[str, str] | None = None,
) -> None:
    """Makes a version the champion and the champion the previous one; `asked` as in `promote`.

    There is a champion at every moment. If the process is killed between the two aliases, both name the old champion.
    Then the same call completes the promotion, and a rollback finds the champion before in a tag.
    """
    name, number, _ = version
    aliases, client = aliases_of(store, name), store.client
    old = aliases.get(CHAMPION)
    verdict = {"decision": PROMOTED, "reason": reason, "by": by} | dict(numbers or {})
    if old is not None and old != number:
        verdict[REPLACED.removeprefix(GATE)] = str(old)
    _write(store, version, verdict)
    if old != number:
        _note(store, version, f"{REIGN}{datetime.now(UTC):%Y%m%dT%H%M%S.%f}", verdict | {"id": asked})
    if old is not None and old != number:
        client.set_registered_model_alias(name, PREVIOUS, str(old))
    client.set_registered_model_alias(name, CHAMPION, str(number))
    if aliases_of(store, name).get(CHALLENGER) == number:  # a training may have registered another one meanwhile
        client.delete_registered_model_alias(name, CHALLENGER)


def keep_review(store: Store, version: ModelVersion, review: Review, reason: str) -> None:
    """Keeps for `history` a person's review of a version that does not become champion by it.

    A review without an id is not kept, as nobody was asked.
    """
    if review.id:
        _keep(store, version, WITHOUT_EFFECT if review.approve else REJECTED, reason, review.name, review.id)


def said_by_champion(version: Registered, asked: str) -> bool:
    """Tells whether a version became champion by the request of that id, which is now made again."""
    reigns = (json.loads(text) for key, text in version.tags.items() if key.startswith(REIGN))
    return bool(asked) and any(reign.get("id") == asked for reign in reigns)


def _keep(store: Store, version: ModelVersion, decision: str, reason: str, by: str, asked: str) -> None:
    """Keeps a person's decision that makes no champion, in a tag that no other decision overwrites."""
    key = f"{DECISION}{asked or uuid.uuid4().hex}"
    if key not in get(store, version.name, version.version).tags:
        _note(store, version, key, {"decision": decision, "reason": reason, "by": by})


def _note(store: Store, version: ModelVersion, key: str, verdict: Mapping[str, str]) -> None:
    """Writes a tag for `history`, which the next decision on the version does not overwrite."""
    text = json.dumps({**verdict, "since": datetime.now(UTC).isoformat()})
    store.client.set_model_version_tag(version.name, str(version.version), key, text)


def _write(store: Store, version: ModelVersion, verdict: Mapping[str, str]) -> None:
    """Writes the latest decision on a version and its numbers, as tags."""
    for key, text in {**verdict, "time": datetime.now(UTC).isoformat(timespec="seconds")}.items():
        store.client.set_model_version_tag(version.name, str(version.version), GATE + key, tag_text(text))
