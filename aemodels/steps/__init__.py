"""Holds the tracked steps of the workflow, which Prefect tasks and single commands call; each flow has a file here.

Each step is a generator of Progress that returns a small frozen result of paths, ids and numbers. Only here do data,
training, evaluation, the search, MLflow and the registry meet.
"""
