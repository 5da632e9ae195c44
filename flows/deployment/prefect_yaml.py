"""Checks prefect.yaml before anything is deployed, as Prefect does not check all of it.

Prefect ignores keys that it does not know and says nothing, deploys what comes before a mistake, and a wrong parameter
makes a run fail only when its hour has come.
"""

from __future__ import annotations

import inspect
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
from aemodels.data.folder import FolderConfig
from aemodels.settings import is_data_path

PARTS: dict[str, type[BaseModel]] = {  # the parts of a deployment that have keys of their own
    "work_pool": WorkPoolConfig,
    "concurrency_limit": ConcurrencyLimitSpec,
    "schedules": RawScheduleConfig,
    "triggers": DeploymentEventTrigger,
}


def read_plan(file: Path) -> dict[str, Any]:
    """Reads and checks the file.

    Raises:
        UserError: it is missing or wrong; the message lists all mistakes, by deployment and key.
    """
    if not file.exists():
        raise UserError(f"--file {file}: there is no such file; `make deploy` in a checkout finds it")
    try:
        plan: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML:", *str(error).splitlines()) from None
    if mistakes := list(find_mistakes(plan)):
        raise UserError(*(f"{file.name}: {mistake}" for mistake in mistakes), "nothing was deployed")
    return plan


def find_mistakes(plan: Any) -> Iterator[str]:
    """Yields a sentence for each mistake in the plan."""
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
    """Yields a sentence for each key that Prefect would ignore."""
    known = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
    yield from (f"{place}{key}: no such key; {_hint(key, known)}" for key in section if key not in known)


def _wrong_parameters(deployment: Mapping[str, Any], place: str) -> Iterator[str]:
    """Yields a sentence for each parameter that no run could start with, also of a schedule or a trigger."""
    entrypoint = str(deployment.get("entrypoint"))
    given = list(_given_parameters(deployment, place))
    if "{{" in entrypoint:
        return
    try:
        flow: Flow[Any, Any] = load_flow_from_entrypoint(entrypoint)
        hints = typing.get_type_hints(flow.fn, include_extras=True) if given else {}
    except Exception as error:  # whatever the import of somebody's own flow raises
        yield f"{place}entrypoint={entrypoint}: cannot be loaded ({error}); give MODULE.FLOW, such as flows.train.train"
        return
    taken = inspect.signature(flow.fn).parameters
    for key, name, value in given:
        if name not in taken:
            yield f"{key}: {flow.name} has no such parameter; {_hint(name, taken)}"
            continue
        known = "{{" not in str(value) and "__prefect_kind" not in str(value)  # what Prefect fills in is known later
        wrong = list(_wrong_value(hints.get(name, Any), value)) if known else []
        yield from (f"{key}{one}" for one in wrong)
        if not wrong:
            yield from _vague_folders(key, value)


def _given_parameters(deployment: Mapping[str, Any], place: str) -> Iterator[tuple[str, str, Any]]:
    """Yields the place, the name and the value of each parameter of a deployment, its schedules and its triggers."""
    sections = [(place, deployment)]
    for kind in ("schedules", "triggers"):
        listed = deployment.get(kind)
        sections += [(f"{place}{kind}.", one) for one in (listed if isinstance(listed, list) else [])]
    for where, section in sections:
        given = section.get("parameters") if isinstance(section, Mapping) else None
        for name, value in (given or {}).items():
            yield f"{where}parameters.{name}", name, value


def _wrong_value(hint: Any, value: Any) -> Iterator[str]:
    """Yields, for each mistake in a value, the text that follows the parameter's name in a message."""
    configs = [kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type) and issubclass(kind, Config)]
    try:
        if configs and isinstance(value, Mapping):
            configs[0].validated(value)
        else:
            TypeAdapter(hint).validate_python(value)
    except SettingsError as error:
        yield from (f".{line}" for line in str(error).splitlines())
    except ValidationError as error:
        wrong, key = error.errors()[0], ""
        for step in wrong["loc"]:  # it names variants of unions too, which are no keys
            if isinstance(value, Mapping) and step in value:
                key, value = f"{key}.{step}", value[step]
        yield f"{key}={value!r}: {wrong['msg'].removeprefix('Value error, ')}"


def _vague_folders(key: str, value: Any) -> Iterator[str]:
    """Yields a sentence for each folder of images that is wrong and that no type has checked.

    Such folders are among free settings, or beside values that Prefect fills in. A single folder that is not in a list
    is wrong too, as Prefect's own check refuses it.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _vague_folders(f"{key}.{name}", inner)
        return
    if not is_data_path(key):
        return
    if isinstance(value, str) and not value.startswith("{{"):
        yield f"{key}={value}: here it is a list; write path: [{value}]"
    for folder in value if isinstance(value, list) else []:
        try:
            if not str(folder).startswith("{{"):
                FolderConfig.validated({"path": [folder]})
        except SettingsError as error:
            yield f"{key}{str(error).removeprefix('path')}"


def _hint(key: str, known: Collection[str]) -> str:
    return did_you_mean(key, known).strip() or f"it has: {', '.join(sorted(known))}"
