"""Loads a registered model for MLflow, which runs the file itself ("models from code"); nothing imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model, set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME
from numpy.typing import NDArray

from aemodels.checkpoints.model_files import CHECKSUMS, check_registered, load_network
from aemodels.config import UserError
from aemodels.runtime.devices import serving_device
from aemodels.serving.answers import Question
from aemodels.serving.model import Model as TrainedModel


class ServedModel(PythonModel):
    """A served model runs on the CPU unless AEMODELS_DEVICE says otherwise, so that seeds give the same everywhere."""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the packed files, and refuses files that are not those that were registered."""
        files = {name: Path(path) for name, path in context.artifacts.items()}
        folder = files["config"].parent
        check_registered(folder / CHECKSUMS, _registered_digest(folder.parent), "this model")
        network = load_network(files["config"], files["weights"], str(serving_device()))
        self.model = TrainedModel(network, folder)

    def predict(  # MLflow takes hints for a schema, but none from np.ndarray
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Returns the model's answer, as aemodels.serving.answers.answer tells; `params` are those of Question."""
        try:
            return self.model.answer(model_input, Question(**params or {}))[0]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None


def _registered_digest(folder: Path) -> str | None:
    """Asks the store in use for the SHA-256 of the model's checksums; None where it does not know the model.

    Args:
        folder: holds MLmodel; where the model is loaded by its name, MLflow has just written its version there.
    """
    in_use: Any = mlflow.is_tracking_uri_set  # untyped
    if not in_use():  # a copy, served without a store
        return None
    client, version = mlflow.MlflowClient(), folder / REGISTERED_MODEL_META_FILE_NAME
    named = yaml.safe_load(version.read_text()) if version.exists() else {}
    try:
        if named.get("model_name") is not None:
            tags = client.get_model_version(named["model_name"], str(named["model_version"])).tags
        else:
            tags = client.get_logged_model(Model.load(folder).model_id or "").tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None  # the model is of another store
    return dict(tags).get(CHECKSUMS)


set_model(ServedModel())
