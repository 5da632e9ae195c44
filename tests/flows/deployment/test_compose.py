"""Tests docker-compose.yml by reading it: what every service must have. tests/stack runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import PAGES
from places import ROOT

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
    """Compose asks for each secret, and refuses to start without it."""
    secret = r"\w*(?:PASSWORD|SECRET|AUTH_STRING)\w*"
    for key, value in re.findall(rf"^ +({secret}):(.*)$", TEXT, re.MULTILINE):
        assert value == "" or re.fullmatch(r" (admin:)?\$\{\w+:\?[^}]+\}( +#.*)?", value), key
    for text in (EXAMPLE, (ROOT / "ops" / "team.env.example").read_text()):
        for key, value in re.findall(rf"^#?({secret})=(.*)$", text, re.MULTILINE):
            assert value in ("", "$TEAM_PASSWORD", "admin:$TEAM_PASSWORD"), key


def test_both_servers_start_by_the_script_that_tests_start() -> None:
    """That script keeps the servers safe, and tests/live starts them by it."""
    for name in ("mlflow", "prefect"):
        assert SERVICES[name]["command"][:3] == ["sh", "/ops/serve.sh", name]
        assert "./ops:/ops:ro" in SERVICES[name]["volumes"]
    prefect = SERVICES["prefect"]  # who holds a limit is kept there
    assert f"prefect:{prefect['environment']['PREFECT_HOME']}" in prefect["volumes"]
    mlflow = SERVICES["mlflow"]
    assert f"mlflow:{mlflow['environment']['TEAM_FOLDER']}" in mlflow["volumes"]


PASSWORDS = {"POSTGRES_PASSWORD": "postgres-Xq7", "TEAM_PASSWORD": "team-Xq7-secret"}


def compose_command() -> list[str] | None:
    known = (["docker", "compose"], ["docker-compose"])
    there = (command for command in known if shutil.which(command[0]))
    works = (command for command in there if not subprocess.run([*command, "version"], capture_output=True).returncode)
    return next(works, None)


def compose(folder: Path, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs `docker compose config`, in whichever version is there, with these values in .env."""
    command = compose_command()
    if command is None:
        pytest.skip("no docker compose here: apt-get install docker-compose")
    file = folder / "env"
    file.write_text("\n".join(f"{name}={value}" for name, value in values.items()))
    command += ["--project-directory", str(ROOT), "-f", str(ROOT / "docker-compose.yml"), "--env-file", str(file)]
    clean = {name: value for name, value in os.environ.items() if name not in PASSWORDS}
    return subprocess.run([*command, "config"], env=clean, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", PASSWORDS)
def test_compose_refuses_an_unfilled_env(missing: str, tmp_path: Path) -> None:
    done = compose(tmp_path, PASSWORDS | {missing: ""})
    assert done.returncode != 0
    assert missing in done.stderr
    assert "give it a value in .env" in done.stderr


def test_compose_puts_no_password_into_a_command_or_an_address(tmp_path: Path) -> None:
    done = compose(tmp_path, PASSWORDS)
    assert done.returncode == 0, done.stderr
    for service in yaml.safe_load(done.stdout)["services"].values():
        holders = {name for name, value in service["environment"].items() if "Xq7" in str(value)}
        assert all(name.endswith(("PASSWORD", "AUTH_STRING")) for name in holders)
        assert "Xq7" not in str({**service, "environment": None})


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (["prefect"], {}, ["TEAM_PASSWORD", "twelve characters", "without-passwords"]),
        (["mlflow"], {"TEAM_PASSWORD": "short"}, ["TEAM_PASSWORD", "twelve characters"]),
        (["mlflow"], {"TEAM_PASSWORD": "long-enough-password"}, ["TEAM_FOLDER", "no such folder"]),
        (["mlfow"], {"TEAM_PASSWORD": "long-enough-password"}, ["mlfow", "mlflow or prefect"]),
        ([], {"TEAM_PASSWORD": "long-enough-password"}, ["mlflow or prefect"]),
    ],
)
def test_a_server_that_would_be_open_by_mistake_does_not_start(
    arguments: list[str], settings: dict[str, str], words: list[str]
) -> None:
    environment = {"PATH": os.environ["PATH"], **settings}
    command = [str(ROOT / "ops" / "serve.sh"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words), done.stderr


def environment_in(service: str, folder: Path, **values: str) -> dict[str, str]:
    """Returns the environment of the program in a service's container, with these values in .env."""
    shutil.copytree(ROOT / "ops", folder / "ops", dirs_exist_ok=True)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name in ("mlflow", "prefect"):
        (programs / name).write_text("#!/bin/sh\nenv\n")
        (programs / name).chmod(0o755)

    def value(found: re.Match[str]) -> str:
        return values.get(found[1]) or found[2] or "a-long-password"

    given = {name: str(text or "") for name, text in SERVICES[service]["environment"].items()}
    environment = {name: re.sub(r"\$\{(\w+)(?::-|:\?)?([^}]*)\}", value, text) for name, text in given.items()}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "TEAM_FOLDER": str(folder)}
    environment |= {name: "" for name in ("MLFLOW_URL", "PREFECT_URL") if name in environment and name not in values}
    command = [str(folder) + part if part.startswith("/ops/") else part for part in SERVICES[service]["command"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("values", "mlflow", "prefect"),
    [
        ({}, "http://127.0.0.1:5000", "http://127.0.0.1:4200"),
        ({"MLFLOW_PORT": "5300", "PREFECT_PORT": "4300"}, "http://127.0.0.1:5300", "http://127.0.0.1:4300"),
        (
            {"MLFLOW_URL": "https://m.example.org/", "PREFECT_URL": "https://p.example.org/", "PREFECT_PORT": "4300"},
            "https://m.example.org",
            "https://p.example.org",
        ),
    ],
)
def test_pages_and_links_lead_where_the_servers_are(
    values: dict[str, str], mlflow: str, prefect: str, tmp_path: Path
) -> None:
    """A port alone is enough, and an address may end in a slash."""
    served = environment_in("prefect", tmp_path, **values)
    assert served["PREFECT_SERVER_UI_API_URL"] == f"{prefect}/api"
    assert served["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")[0] == prefect
    assert served["PREFECT_SERVER_API_PORT"] == "4200"  # in the container
    served = environment_in("mlflow", tmp_path, **values)
    assert served["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == mlflow
    assert served["MLFLOW_SERVER_ALLOWED_HOSTS"].endswith("," + mlflow.partition("://")[2])
    assert served["MLFLOW_PORT"] == "5000"
    works = environment_in("worker", tmp_path, **values)
    assert (works["AEMODELS_MLFLOW_UI"], works["PREFECT_UI_URL"]) == (mlflow, prefect)


def test_no_documented_command_has_a_password_as_an_argument() -> None:
    """Everybody on the machine sees a command's arguments, such as an address with a password, or -e NAME=VALUE."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            assert not re.search(r"(-e|--env) \w*(PASSWORD|AUTH_STRING|SECRET)\w*=", line), line
            assert not re.search(r"\w://\w+:[^@/ ]+@", line), line
            assert '"$MLFLOW_BACKEND_STORE_URI"' not in line, line


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
    """Where MLflow is stopped, exit code 1 comes from compose and not from tar."""
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
