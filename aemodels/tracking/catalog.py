"""Looks up what is registered: versions of models, their aliases and metrics, and where their files are."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aemodels.config import NAME, OutageError, UnreachableError, UserError, did_you_mean
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.files import in_words
from aemodels.tracking.outages import is_outage
from aemodels.tracking.references import MLFLOW, REFERENCE, folder_of, holds_model, is_folder, whole_reference
from aemodels.tracking.store import Store, open_store, printable

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as StoredVersion

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
ORIGIN = "pipeline.origin"  # the tag of a version that tells what the pipeline that made it was given
MODEL_ID = r"m-[0-9A-Za-z]+"  # an id of MLflow's, which becomes part of a path in the cache
MOST_NAMED = 10  # versions that a message names, at most
REPORT = "report.html"  # the file of a run in its folder and among its artifacts
METRIC, DIGEST = "test/", "data.digest"  # tags of a version: the beginning of those of metrics, and that of the data
SHOWN = 5  # metrics of a version that have a tag of their own
OTHERS = "test"  # the tag with the metrics that have none of their own: the registry page shows every tag in a line


class ModelVersion(NamedTuple):
    """Names the version of a model that a run has registered."""

    name: str
    version: int
    run_id: str


class Registered(NamedTuple):
    """Holds all that the registry knows of a version."""

    version: ModelVersion
    aliases: tuple[str, ...]
    metrics: dict[str, float]  # on the test images, by their names without prefix
    digest: str  # the digest of the data that they were measured on
    created: datetime
    tags: dict[str, str]
    source: str  # models:/ID, which tells where its files are


def list_models(store: Store) -> list[Registered]:
    """Returns all versions of all models, by name, newest first."""
    versions: list[Registered] = []
    for model in _all_models(store):
        found = store.client.search_model_versions(f"name = '{model}'", max_results=1000)
        aliases = aliases_of(store, model)
        own = [_registered(one, aliases) for one in found if DIGEST in one.tags]  # a server may have other models
        versions += sorted(own, key=lambda r: -r.version.version)
    return versions


def get(store: Store, name: str, version: int | str) -> Registered:
    """Returns a version by its number or alias.

    Raises:
        UserError: there is no such model, version or alias; the message says which there are.
    """
    from mlflow.exceptions import MlflowException

    aliases = aliases_of(store, name)
    number = aliases.get(version) if isinstance(version, str) else version
    try:
        if number is not None:
            return _registered(store.client.get_model_version(name, str(number)), aliases)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    numbers = sorted(int(one.version) for one in store.client.search_model_versions(f"name = '{name}'"))
    older = [f"{len(numbers) - MOST_NAMED} older ones"] if len(numbers) > MOST_NAMED else []
    there = (
        older + [f"{name}/{one}" for one in numbers[-MOST_NAMED:]] + [f"{name}@{alias}" for alias in sorted(aliases)]
    )
    asked = f"{name}@{version}" if isinstance(version, str) else f"{name}/{version}"
    raise UserError(f"{asked}: not registered; there is {', '.join(there) or 'no version of it'}")


def made_from(store: Store, name: str, origin: str) -> Registered | None:
    """Returns the newest version that a pipeline of that origin has made; None where there is none."""
    asked = f"name = '{name}' and tags.`{ORIGIN}` = '{origin}'"
    numbers = [int(one.version) for one in store.client.search_model_versions(asked)]
    return get(store, name, max(numbers)) if numbers else None


def champion(store: Store, name: str) -> Registered | None:
    """Returns the model in use; None where there is none yet."""
    if name not in _all_models(store) or CHAMPION not in aliases_of(store, name):
        return None
    return get(store, name, CHAMPION)


def find(reference: str, store: Store | None = None) -> Path:
    """Returns the folder with config.json and weights.safetensors of `digits@champion`, `digits/3` or a run's folder.

    Raises:
        UserError: there is no such model.
    """
    folder = folder_of(reference)
    return folder if holds_model(folder) else find_registered(reference, store)


def find_registered(reference: str, store: Store | None = None) -> Path:
    """Returns the folder of a registered model, whatever the folders here are called.

    Raises:
        UserError: there is no such model.
    """
    from aemodels.checkpoints.model_files import CHECKSUMS, check_registered

    store, model = _named(reference, store)
    folder = _files(store, model)
    name, version, _ = model.version
    check_registered(folder / CHECKSUMS, model.tags.get(CHECKSUMS), f"{name}/{version}")
    return folder


def pinned(reference: str) -> str:
    """Returns a reference that means the same model later: NAME/VERSION for NAME@ALIAS, a whole path for a folder.

    Raises:
        UserError: there is no such model.
    """
    if is_folder(reference):
        return whole_reference(reference)
    name, version, _ = _named(reference, None)[1].version
    return f"{name}/{version}"


def find_report(reference: str, store: Store | None = None) -> Path:
    """Returns the report.html of `digits@champion`, `digits/3` or a run's folder; a server's is copied into the cache.

    Raises:
        UserError: there is no such model, or it has no report.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    remedy = f"`aemodels evaluate {reference}` makes one, or train it again"
    folder = folder_of(reference)
    if os.path.isfile(folder / REPORT):
        return folder / REPORT
    if is_folder(reference):
        find(reference, store)  # refuses what is no run's folder
        raise UserError(f"{reference}: has no {REPORT}; {remedy}")
    store, model = _named(reference, store)
    name, version, run_id = model.version
    copy = cache_folder() / "reports" / f"{name}-{version}"
    try:
        address = f"{store.client.get_run(run_id).info.artifact_uri}/{REPORT}"
        if store.artifacts is not None:
            return Path(download_artifacts(address, tracking_uri=store.uri))  # a local file is not copied
        copy.mkdir(parents=True, exist_ok=True)
        return Path(download_artifacts(address, dst_path=str(copy), tracking_uri=store.uri))
    except (MlflowException, OSError) as error:
        if (told := in_words(error)) is not None:
            raise told from error
        raise UserError(f"{name}/{version}: its run has no {REPORT}; {remedy}") from None


def _named(reference: str, store: Store | None) -> tuple[Store, Registered]:
    """Returns a registered model by NAME@ALIAS or NAME/VERSION.

    Raises:
        UserError: it is neither, or there is no such model.
    """
    from aemodels.checkpoints.model_files import CONFIG, WEIGHTS

    reference = reference.removeprefix(MLFLOW)
    match = re.fullmatch(REFERENCE, reference)
    if match is None and is_folder(reference):
        raise UserError(
            f"{reference}: neither a finished run's folder, with {CONFIG} and {WEIGHTS}, nor a registered model; give "
            "one of them, such as digits@champion or digits/3"
        )
    store = store or open_store()
    try:
        return store, _registered_as(reference, match, store)
    except OutageError:
        raise
    except UserError as error:
        there = "a run's folder may be given too"
        if os.path.isdir(reference):
            there = f"the folder {reference} is not a finished run's, with {CONFIG} and {WEIGHTS}"
        if (match is not None and not os.path.isdir(reference)) or holds_model(folder_of(reference)):
            raise
        raise UserError(f"{error}; {there}") from None


def _registered_as(reference: str, match: re.Match[str] | None, store: Store) -> Registered:
    if match is None:
        aliases_of(store, reference)  # refuses a name that is not there
        raise UserError(f"{reference}: the version is missing; give {reference}@champion or {reference}/1")
    name, alias, number = match.groups()
    return get(store, name, alias or int(number))


def _files(store: Store, model: Registered) -> Path:
    """Returns where the files are; a server's are copied into the cache once, since a logged model never changes."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from aemodels.checkpoints.model_files import first_line

    name, version, _ = model.version
    model_id = model.source.removeprefix(MLFLOW)
    copy = cache_folder() / "models" / model_id
    if not re.fullmatch(MODEL_ID, model_id):
        raise UserError(f"{name}/{version}: another program registered it ({printable(model.source)}); train it again")
    if copy.exists():
        return copy
    try:
        location = f"{store.client.get_logged_model(model_id).artifact_location}/artifacts"
        if store.artifacts is not None:
            return Path(download_artifacts(location, tracking_uri=store.uri))  # a local folder is not copied
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
            files = Path(download_artifacts(location, dst_path=scratch, tracking_uri=store.uri))
            if not copy.exists():  # another process may have been faster
                files.rename(copy)
        return copy
    except (MlflowException, OSError) as error:
        if (told := in_words(error)) is not None:
            raise told from error
        if is_outage(error):
            raise UnreachableError(f"{name}/{version}: MLflow does not give its files ({first_line(error)})") from error
        raise UserError(
            f"{name}/{version}: its files cannot be read ({first_line(error)}); the store was moved or cleaned, or "
            "another program registered it: train it again"
        ) from error


def _all_models(store: Store) -> list[str]:
    names: list[str] = []
    token: str | None = None
    while True:
        page = store.client.search_registered_models(page_token=token)
        names += [model.name for model in page if re.fullmatch(NAME, model.name)]
        token = page.token
        if not token:
            return sorted(names)


def aliases_of(store: Store, name: str) -> dict[str, int]:
    """Returns alias -> version.

    Raises:
        UserError: there is no such model; the message names the nearest.
    """
    from mlflow.exceptions import MlflowException

    try:  # a text that is no name of ours is not looked up, as it would become part of a query
        model = store.client.get_registered_model(name) if re.fullmatch(NAME, name) else None
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        model = None
    if model is None:
        names = _all_models(store)
        hint = did_you_mean(name, names)
        there = f"registered are {', '.join(names[:20])}" if names else "none is; `aemodels train` registers one"
        raise UserError(f"{name}: no such registered model; {hint}{there}")
    return {alias: int(version) for alias, version in model.aliases.items()}


def metric_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    """Returns a tag for each of the first metrics, and one for all others."""
    texts = {key: f"{value:.8g}" for key, value in metrics.items()}
    own = dict(list(texts.items())[:SHOWN])
    others = {key: float(text) for key, text in texts.items() if key not in own}
    return {f"{METRIC}{key}": text for key, text in own.items()} | ({OTHERS: json.dumps(others)} if others else {})


def _metrics(tags: Mapping[str, str]) -> dict[str, float]:
    """Reads the metrics of a version, of which older ones have a tag for each."""
    own = {key.removeprefix(METRIC): float(text) for key, text in tags.items() if key.startswith(METRIC)}
    others: dict[str, float] = json.loads(tags.get(OTHERS, "{}"))
    return own | others


def _registered(stored: StoredVersion, aliases: Mapping[str, int]) -> Registered:
    version = int(stored.version)
    return Registered(
        version=ModelVersion(stored.name, version, stored.run_id or ""),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == version)),
        metrics=_metrics(stored.tags),
        digest=stored.tags.get(DIGEST, ""),
        created=datetime.fromtimestamp(stored.creation_timestamp / 1000, UTC),
        tags=dict(stored.tags),
        source=stored.source or "",
    )
