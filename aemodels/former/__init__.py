"""Modules by their former names: models that were registered before these moved import them when MLflow loads them."""
