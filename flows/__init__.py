"""The outermost layer: Prefect flows and the command line."""
