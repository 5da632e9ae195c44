"""The imports run one way: this is where the architecture of the folders is kept."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

LAYERS = [  # from the bottom; a module imports from its own layer and those below
    {"config", "texts", "environment", "disk", "progress", "process_names", "workers", "parallel", "devices"},
    {"schedules", "objectives", "distributions", "corruption", "nets", "priors"},
    {"models", "data", "modelfile"},
    {
        "features",
        "undisturbed",
        "denoising",
        "requests",
        "neighbours",
        "likelihoods",
        "out_of_domain",
        "information",
        "evidence",
        "leaving_out",
        "metrics",
        "lettering",
        "pictures",
        "figures",
        "figures_codes",
        "figures_requests",
        "comparison_figures",
        "drift",
        "drift_figures",
    },
    {"evaluation", "pretraining", "training", "updates", "replay", "population"},
    {"experiment"},
    {"checkpoint", "members", "trial", "trial_costs", "trials", "comparison_table", "report"},
    {"tuning", "tuning_sampler", "tuning_storage", "tuning_study", "tuning_search", "tuning_figures"}
    | {"mlflow_views", "store", "tracking"}
    | {"promotion", "catalog", "registry", "serving", "served_model", "connections", "server"},
    {"settings", "comparison", "runfolder"},
    {"steps"},
]
ONLY_HERE = {
    "prefect": {"flows"},
    "mlflow": {"store", "tracking", "catalog", "registry", "serving", "served_model"},
    "optuna": {"tuning_sampler", "tuning_storage", "tuning_study"},
    "fastapi": {"server"},
    "starlette": {"server"},
    "uvicorn": {"connections", "server"},
    "h11": {"connections"},
    "typer": {"flows"},
    "rich": {"flows"},
    "webbrowser": {"flows"},
    "jinja2": {"report"},
}


def module(path: Path) -> str:
    """aemodels/models/vae.py -> models; flows/cli/main.py -> flows."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "flows" if parts[0] == "flows" else parts[1]


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = [p for folder in ("aemodels", "flows") for p in (ROOT / folder).rglob("*.py") if p.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = module(path)
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer} | {"flows": len(LAYERS)}
    assert own in level, f"{own} has no layer yet"
    for name in imports(path):
        package, *rest = name.split(".")
        assert own in ONLY_HERE.get(package, {own}), f"{path} imports {package}"
        assert package != "flows" or own == "flows"
        if package == "aemodels" and rest:
            assert level[rest[0]] <= level[own], f"{path} imports {name} from a higher layer"


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("flows.cli.main", {"torch", "mlflow", "prefect", "optuna", "pydantic_core"}),
        ("aemodels.runtime.processes", {"torch", "numpy", "PIL"}),
        ("aemodels.tracking.catalog", {"torch", "mlflow", "prefect", "optuna", "sklearn", "matplotlib"}),
        ("aemodels.training.loop", {"torchvision", "mlflow", "prefect", "optuna", "sklearn", "matplotlib"}),
        ("aemodels.experiment", {"torchvision", "mlflow", "prefect", "optuna", "sklearn", "matplotlib"}),
        (
            "aemodels.checkpoints.model_files",
            {"torchvision", "mlflow", "prefect", "optuna", "sklearn", "matplotlib", "psutil", "PIL"},
        ),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(imported: str, absent: set[str]) -> None:
    code = f"import sys, {imported}; print(*{absent!r} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == []


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("command", [["models"], ["history", "digits"]], ids=lambda command: command[0])
def test_what_is_registered_is_listed_without_torch(command: list[str]) -> None:
    code = "import atexit, sys; from flows.cli.main import main; atexit.register(lambda: print(*sys.modules)); main()"
    ran = subprocess.run([sys.executable, "-c", code, *command, "--json"], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == (0 if command == ["models"] else 2), ran.stderr  # there is no such model
    loaded = set(ran.stdout.splitlines()[-1].split())
    assert "mlflow" in loaded  # it has looked
    assert not loaded & {"torch", "prefect", "optuna", "sklearn", "matplotlib"}
