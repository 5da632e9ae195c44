"""Packs a finished model as an MLflow model, which holds source, config and safetensors, and no pickle."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from aemodels.checkpoints.model_files import FILES
from aemodels.serving.answers import Question

if TYPE_CHECKING:
    from mlflow.models import Model

REQUIREMENTS = ("torch", "numpy", "pydantic", "safetensors")


def requirements() -> list[str]:
    """Lists what a packed model needs beside MLflow, as installed here.

    The versions come without the suffix of a build, such as +cpu, which the package index does not know.
    """
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def pack(folder: Path, target: Path, description: Model) -> None:
    """Packs a finished model as an MLflow model in a folder.

    Args:
        folder: holds config.json, weights.safetensors and model.sha256.
        target: the folder to write.
        description: holds what MLflow is to know of it (its id and run).
    """
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec

    kinds = {str: "string", int: "long"}
    params = [ParamSpec(name, kinds[type(value)], value) for name, value in Question()._asdict().items()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
        pyfunc.save_model(
            target,
            mlflow_model=description,
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={name: (folder / file).as_uri() for name, file in FILES.items() if (folder / file).exists()},
            code_paths=[str(Path(__file__).parents[1])],
            pip_requirements=requirements(),
            signature=ModelSignature(params=ParamSchema(params)),  # images and codes alike: inputs are checked here
        )
