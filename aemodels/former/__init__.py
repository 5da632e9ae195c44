"""Modules by their former names: models that were registered before 0.2 import them when MLflow loads them."""
