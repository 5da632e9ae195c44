"""docker-compose.yml, read: what every service must have. tests/stack runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_kept_up_and_kept_in(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert re.search(r":-[a-z-]+:[0-9.]+", service["image"]), "not pinned"
    if name == "deploy":  # it ends
        assert service["restart"] == "no"
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["start_period"]
    assert name == "postgres" or all("condition" in needed for needed in service["depends_on"].values())


def test_no_secret_has_a_value() -> None:
    for key, value in re.findall(r"^ +(\w*(?:PASSWORD|SECRET|AUTH_STRING)\w*):(.*)$", TEXT, re.MULTILINE):
        assert value == "" or re.fullmatch(r" \$\{\w+:\?[^}]+\}", value), key
    for key, value in re.findall(r"(\w*(?:PASSWORD|SECRET|AUTH_STRING)\w*)=(.*)", EXAMPLE):
        assert value in ("", "...", "admin:..."), key


def test_prefect_remembers_who_holds_a_limit() -> None:
    """In memory, as is its default, a restart forgets it, and the limit stays taken."""
    prefect = SERVICES["prefect"]
    assert prefect["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith(".filesystem")
    assert f"prefect:{prefect['environment']['PREFECT_HOME']}" in prefect["volumes"]


def test_docker_compose_1_29_takes_it() -> None:
    assert not set(yaml.safe_load(TEXT)) & {"name", "include", "version"}
    for word in ("start_interval", "required:", "gpus:", "develop:", "content:"):
        assert word not in TEXT
    assert not re.search(r"\$\{\w+:-[^}]*\$\{", TEXT), "nested variables expand wrongly"


def test_variables_are_in_the_example() -> None:
    handed_on = re.findall(r"^ +([A-Z_0-9]+):$", TEXT, re.MULTILINE)
    images = {"SERVER_IMAGE", "WORKER_IMAGE"}  # named by the build
    assert {*re.findall(r"\$\{(\w+)", TEXT), *handed_on} - images <= set(
        re.findall(r"^#?(\w+)=", EXAMPLE, re.MULTILINE)
    )


def test_the_image_is_no_roots_and_for_the_classic_builder() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for stage in ("AS server\n", "AS worker\n"):
        assert "USER aemodels" in text.split(stage)[1]
    assert "--mount" not in text
    assert "<<" not in text


def test_a_backup_without_the_artifacts_is_none(tmp_path: Path) -> None:
    """Compose's exit code 1, where MLflow is stopped, is not tar's."""
    (tmp_path / "ops").mkdir()
    shutil.copy(ROOT / "ops" / "backup.sh", tmp_path / "ops")
    compose = tmp_path / "compose"
    compose.write_text('#!/bin/sh\ncase "$*" in *mlflow\\ *) exit 1 ;; esac\n')
    compose.chmod(0o755)
    command = ["bash", str(tmp_path / "ops" / "backup.sh")]
    done = subprocess.run(command, env={**os.environ, "COMPOSE": str(compose)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert [folder.suffix for folder in (tmp_path / "backups").iterdir()] == [".partial"]
