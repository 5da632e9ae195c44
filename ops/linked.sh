#!/bin/sh
# Runs a command in a worker's container, and tells it where browsers find the servers: ops/linked.sh COMMAND...
set -eu
mlflow=${MLFLOW_URL:-http://127.0.0.1:$MLFLOW_PORT}
prefect=${PREFECT_URL:-http://127.0.0.1:$PREFECT_PORT}
export AEMODELS_MLFLOW_UI="${mlflow%/}" PREFECT_UI_URL="${prefect%/}"
exec "$@"
