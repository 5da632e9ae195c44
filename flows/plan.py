"""prefect.yaml, looked through before anything is deployed: Prefect ignores keys that it does not know without a word,
deploys what comes before a mistake, and a wrong parameter fails in the night.
"""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from pydantic import BaseModel, TypeAdapter, ValidationError

from aemodels.config import Config, SettingsError, UserError, did_you_mean

PARTS: dict[str, type[BaseModel]] = {  # of a deployment: their own keys
    "work_pool": WorkPoolConfig,
    "concurrency_limit": ConcurrencyLimitSpec,
    "schedules": RawScheduleConfig,
    "triggers": DeploymentEventTrigger,
}


def read_plan(file: Path) -> dict[str, Any]:
    """What the file says.

    Raises:
        UserError: all that is wrong with it, by deployment and key.
    """
    if not file.exists():
        raise UserError(f"--file {file}: there is no such file; `make deploy` in a checkout finds it")
    try:
        plan: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML: {error}") from None
    if mistakes := list(find_mistakes(plan)):
        raise UserError("\n".join(f"{file.name}: {mistake}" for mistake in mistakes) + "\nnothing was deployed")
    return plan


def find_mistakes(plan: Any) -> Iterator[str]:
    """Each in words."""
    deployments = plan.get("deployments") if isinstance(plan, dict) else None
    if not isinstance(deployments, list) or not all(isinstance(one, dict) and one.get("name") for one in deployments):
        yield "deployments: required, a list of mappings, each with a name"
        return
    if unknown := list(_unknown_keys(plan)):
        yield from unknown
        return
    try:
        PrefectYamlModel.model_validate(plan)
    except ValidationError as error:
        yield from (f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}" for wrong in error.errors())
    for deployment in deployments:
        yield from _wrong_parameters(deployment, f"deployments.{deployment['name']}.")


def _unknown_keys(plan: Mapping[str, Any]) -> Iterator[str]:
    top = {key: value for key, value in plan.items() if key != "definitions"}  # anchors, as in Prefect's own templates
    yield from _unknown(top, PrefectYamlModel, "")
    for deployment in plan["deployments"]:
        place = f"deployments.{deployment['name']}."
        yield from _unknown(deployment, DeploymentConfig, place)
        for key, part in PARTS.items():
            inner = deployment.get(key)
            for section in inner if isinstance(inner, list) else [inner]:
                if isinstance(section, Mapping) and section.get("type", "event") == "event":  # others have other keys
                    yield from _unknown(section, part, f"{place}{key}.")


def _unknown(section: Mapping[str, Any], model: type[BaseModel], place: str) -> Iterator[str]:
    """Keys that Prefect would ignore."""
    known = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
    yield from (f"{place}{key}: no such key; {_hint(key, known)}" for key in section if key not in known)


def _wrong_parameters(deployment: Mapping[str, Any], place: str) -> Iterator[str]:
    """Those that no run could start with; what Prefect fills in (`{{ ... }}`) is not known yet."""
    entrypoint, given = str(deployment.get("entrypoint")), deployment.get("parameters") or {}
    if "{{" in entrypoint:
        return
    try:
        flow: Flow[Any, Any] = load_flow_from_entrypoint(entrypoint)
        hints = typing.get_type_hints(flow.fn, include_extras=True) if given else {}
    except Exception as error:  # whatever the import of somebody's own flow raises
        yield f"{place}entrypoint={entrypoint}: cannot be loaded ({error}); give MODULE.FLOW, such as flows.train.train"
        return
    taken = inspect.signature(flow.fn).parameters
    for name, value in given.items():
        if name not in taken:
            yield f"{place}parameters.{name}: {flow.name} has no such parameter; {_hint(name, taken)}"
        elif "{{" not in str(value):
            yield from (f"{place}parameters.{name}{wrong}" for wrong in _wrong_value(hints.get(name, Any), value))


def _wrong_value(hint: Any, value: Any) -> Iterator[str]:
    """What follows the parameter's name."""
    configs = [kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type) and issubclass(kind, Config)]
    try:
        if configs and isinstance(value, Mapping):
            configs[0].validated(value)
        else:
            TypeAdapter(hint).validate_python(value)
        if isinstance(value, Mapping):
            yield from _vague_folders(value)
    except SettingsError as error:
        yield from (f".{line}" for line in str(error).splitlines())
    except ValidationError as error:
        yield f"={value!r}: {error.errors()[0]['msg']}"


def _vague_folders(section: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Folders of images, in whatever section, that a worker would look for where it starts, or in a form that Prefect's
    own check refuses.
    """
    given = section.get("path") if section.get("name") == "folder" else None
    if isinstance(given, str):
        yield f"{place}.path={given}: here it is a list; write path: [{given}]"
    for folder in given if isinstance(given, list) else []:
        if not os.path.isabs(os.path.expanduser(str(folder))):
            yield f"{place}.path={folder}: a worker may start anywhere; give the whole path"
    for key, inner in section.items():
        if isinstance(inner, Mapping):
            yield from _vague_folders(inner, f"{place}.{key}")


def _hint(key: str, known: Collection[str]) -> str:
    return did_you_mean(key, known).strip() or f"it has: {', '.join(sorted(known))}"
