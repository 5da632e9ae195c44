"""The file that MLflow runs to load a registered model ("models from code"). Nothing imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from aemodels.config import UserError
from aemodels.devices import best_device
from aemodels.environment import device_name
from aemodels.modelfile import load_network
from aemodels.serving import Question, answer


class ServedModel(PythonModel):
    """Runs on the CPU unless AEMODELS_DEVICE says otherwise, so that a seed draws the same images everywhere."""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the packed files."""
        files = {name: Path(path) for name, path in context.artifacts.items()}
        device = str(best_device()) if device_name() else "cpu"
        self.model = load_network(files["config"], files["weights"], device)

    def predict(  # MLflow takes hints for a schema, but none from np.ndarray
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """See aemodels.serving.answer; `params` are those of Question."""
        try:
            return answer(self.model, model_input, Question(**params or {}))
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None


set_model(ServedModel())
