"""prefect.yaml, looked through before anything is deployed: Prefect ignores keys that it does not know without a word,
deploys what comes before a mistake, and a wrong parameter fails in the night.
"""

from __future__ import annotations

import difflib
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
from prefect.flows import load_flow_from_entrypoint
from pydantic import BaseModel, TypeAdapter, ValidationError

from aemodels.config import Config, SettingsError, UserError

PARTS: dict[str, type[BaseModel]] = {
    "work_pool": WorkPoolConfig,
    "concurrency_limit": ConcurrencyLimitSpec,
    "schedules": RawScheduleConfig,
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
    if not isinstance(plan, dict) or not isinstance(plan.get("deployments"), list):
        yield "deployments: required, a list"
        return
    top = {key: value for key, value in plan.items() if key != "definitions"}  # anchors, as in Prefect's own templates
    yield from _unknown(top, PrefectYamlModel, "")
    for deployment in plan["deployments"]:
        if not isinstance(deployment, dict):
            yield f"deployments: {deployment!r} is no mapping"
            continue
        place = f"deployments.{deployment.get('name')}."
        yield from _unknown(deployment, DeploymentConfig, place)
        yield from _wrong_parameters(deployment, place)


def _unknown(section: Mapping[str, Any], model: type[BaseModel], place: str) -> Iterator[str]:
    """Keys that Prefect would ignore."""
    known = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
    yield from (f"{place}{key}: no such key; {_hint(key, known)}" for key in section if key not in known)
    if model is DeploymentConfig:
        for key, part in PARTS.items():
            for inner in section.get(key) or [] if key == "schedules" else [section.get(key)]:
                if isinstance(inner, Mapping):
                    yield from _unknown(inner, part, f"{place}{key}.")


def _wrong_parameters(deployment: Mapping[str, Any], place: str) -> Iterator[str]:
    entrypoint = deployment.get("entrypoint")
    try:
        flow: Flow[Any, Any] = load_flow_from_entrypoint(str(entrypoint))
    except Exception as error:  # whatever the import of somebody's own flow raises
        yield f"{place}entrypoint={entrypoint}: cannot be loaded ({error}); give MODULE.FLOW, such as flows.train.train"
        return
    taken, given = inspect.signature(flow.fn).parameters, deployment.get("parameters") or {}
    yield from (
        f"{place}parameters.{name}: {flow.name} has no such parameter; {_hint(name, taken)}"
        for name in given
        if name not in taken
    )
    hints = typing.get_type_hints(flow.fn, include_extras=True)
    for name, value in given.items():
        hint = hints.get(name, Any) if name in taken else Any
        try:
            if isinstance(hint, type) and issubclass(hint, Config):
                hint.parse(value)
            else:
                TypeAdapter(hint).validate_python(value)
        except SettingsError as error:
            yield from (f"{place}parameters.{name}.{line}" for line in str(error).splitlines())
        except ValidationError as error:
            yield f"{place}parameters.{name}={value!r}: {error.errors()[0]['msg']}"


def _hint(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"it has: {', '.join(sorted(known))}"
