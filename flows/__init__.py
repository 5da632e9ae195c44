"""Runs the steps of the library as Prefect flows and as commands; it is the outermost layer of the project."""
