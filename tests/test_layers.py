"""Tests that imports run one way. This file holds the order of the packages."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from imports import imported, modules, room  # docs/imports.py, which draws them too
from places import ROOT

# From the ground up; a room may import from those below it, and the two of one floor do not import each other in turn.
ORDER = """
    texts < config < runtime < nn < priors < models data < training evaluation < experiment
    < tuning checkpoints < serving reports former < tracking < settings < steps < api < flows
"""
FLOORS = {room: floor for floor, rooms in enumerate(ORDER.split("<")) for room in rooms.split()}
ONLY_HERE = {
    "prefect": {"flows"},
    "mlflow": {"tracking", "serving"},
    "optuna": {"tuning"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "h11": {"serving"},
    "typer": {"flows"},
    "rich": {"flows"},
    "webbrowser": {"flows"},
    "jinja2": {"reports"},
    "zuko": {"priors"},
    "httpx": {"flows"},
    "psutil": {"runtime", "data", "flows"},
    "skimage": {"evaluation"},
    "scipy": {"evaluation"},
    "matplotlib": {"reports"},
    "torchvision": {"data"},
    "tqdm": {"runtime"},
    "pyarrow": {"data"},
    # The databases and servers of searches and of MLflow, of which no lower room knows.
    "sqlalchemy": {"tuning", "tracking"},
    "psycopg": {"tracking"},
    "urllib3": {"tracking"},
}
# What other packages keep to themselves and we use all the same; a package that has such names has an upper bound.
PRIVATE = {
    "aemodels/runtime/devices.py": {"torch": {"_is_amx_tile_supported", "_is_avx512_bf16_supported"}},
    "aemodels/training/adam.py": {"torch": {"_fused_adam_", "_fused_adamw_"}},
    "aemodels/tuning/costs.py": {"torch": {"_python_dispatch", "_pytree", "_cdata"}},
    "aemodels/tuning/claims.py": {"optuna": {"_trial_id", "_get_stale_trial_ids"}},
    "aemodels/tuning/study.py": {"optuna": {"_trial_id"}},
    "flows/deployment/prefect_yaml.py": {"prefect": {"_models"}},
    "flows/deployment/worker.py": {"prefect": {"_propose_crashed_state", "_logger"}},
}
PUBLIC = {"_asdict", "_replace", "_fields", "_exit"}  # of named tuples, and os._exit


FILES = modules(ROOT, "aemodels", "flows", "benchmarks")


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("benchmarks", "aemodels.presets"))])
def test_imports_run_one_way(name: str) -> None:
    own = room(name)
    for other in imported(FILES[name], FILES):
        package = other.split(".")[0]
        assert own in ONLY_HERE.get(package, {own}), f"{name} imports {package}"
        if package in ("aemodels", "flows") and own != "aemodels":
            assert room(other) in FLOORS, f"{other} has no floor yet"
            assert FLOORS[room(other)] <= FLOORS[own], f"{name} imports {other} from a higher floor"


@pytest.mark.parametrize("unit", [room, str], ids=["rooms", "modules"])
def test_no_imports_run_in_a_circle(unit) -> None:
    graph: dict[str, set[str]] = {}
    for name, path in FILES.items():
        graph.setdefault(unit(name), set()).update(unit(other) for other in imported(path, FILES) & FILES.keys())
    for name, others in graph.items():
        others.discard(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_pages_have_this_order(page: str) -> None:
    text = (ROOT / page).read_text().translate(str.maketrans("{},`", "    "))
    former = ORDER.replace(" former", "")  # modules by their former names, which nobody imports
    assert " ".join(former.split()) in " ".join(text.split())


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Counts the lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]


def test_functions_and_files_are_short() -> None:
    for name, path in FILES.items():
        text = path.read_text()
        assert len(text.splitlines()) <= 350, name
        if not name.startswith("benchmarks"):
            functions = (
                node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            )
            assert [f"{name}.{node.name}" for node in functions if lines(node) > 40] == []


def private_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("aemodels", "flows")):
            yield from node.module.split(".")
            yield from (alias.name for alias in node.names)


def test_private_names_of_other_packages_are_listed_beside_their_bounds() -> None:
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    own = {
        node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else node.attr
        for path in FILES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    }
    for path in FILES.values():
        found = {name for name in private_names(path) if name.startswith("_") and not name.startswith("__")}
        listed = PRIVATE.get(str(path.relative_to(ROOT)), {})
        assert found - own - PUBLIC == set().union(*listed.values()), path
        for package in listed:
            (bound,) = (text for text in bounds if text.startswith(package) and not text[len(package)].isalnum())
            assert "<" in bound, f"{package} has no upper bound, but private names of it are used"


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("aemodels", {"torch", "numpy", "pydantic", "mlflow"}),
        ("flows.cli.main", {"torch", "mlflow", "prefect", "optuna", "pydantic_core"}),
        ("aemodels.runtime.processes", {"torch", "numpy", "PIL"}),
        ("aemodels.tracking.catalog", {"torch", "mlflow", "prefect", "optuna", "sklearn", "matplotlib"}),
        ("aemodels.training.train", {"torchvision", "mlflow", "prefect", "optuna", "sklearn", "matplotlib"}),
        ("aemodels.evaluation.config", {"torch", "numpy", "aemodels.evaluation.metrics"}),
        ("aemodels.experiment", {"torchvision", "mlflow", "prefect", "optuna", "sklearn", "matplotlib"}),
        (
            "aemodels.checkpoints.model_files",
            {"torchvision", "mlflow", "prefect", "optuna", "sklearn", "matplotlib", "psutil", "PIL"},
        ),
        (
            "aemodels.serving.model",  # MLflow holds it where nothing is but a packed model's requirements
            {"torchvision", "mlflow", "prefect", "optuna", "sklearn", "matplotlib", "psutil", "PIL", "filelock"},
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
