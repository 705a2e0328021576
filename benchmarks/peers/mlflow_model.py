"""The bundle as an MLflow pyfunc model, for `mlflow models serve`."""

import sys
from typing import Any

import mlflow
import pandas as pd


class BundleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Bundle.answer behind MLflow's predict."""

    def load_context(self, context: Any) -> None:
        """Load the bundle."""
        from models.bundle import Bundle

        self.bundle = Bundle.load(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        """Answers to the texts of column `description`."""
        return self.bundle.answer(model_input["description"].tolist())


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[1], python_model=BundleModel(), artifacts={"bundle": sys.argv[2]})
