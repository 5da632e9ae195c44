"""The steps of the workflow, tracked: what a Prefect task or a single command calls; a file for each flow.

Each is a generator of Progress that returns a small frozen result of paths, ids and numbers. Only here do data,
training, evaluation, the search, MLflow and the registry meet.
"""
