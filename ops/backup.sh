#!/usr/bin/env bash
# All that the stack must not lose, into a new folder below backups/: three databases and MLflow's volume.
set -euo pipefail
cd "$(dirname "$0")/.."
compose=${COMPOSE:-docker compose}
umask 077  # it holds everything that the databases do
folder=backups/$(date -u +%Y-%m-%dT%H%M%SZ)
mkdir -p "$folder.partial"
for database in mlflow prefect optuna; do
    $compose exec -T postgres pg_dump --username=aemodels --format=custom "$database" >"$folder.partial/$database.dump"
done
# After the databases: every file that they name is there. 1 says that something was being written meanwhile.
$compose exec -T mlflow tar -C /data -cf - . >"$folder.partial/mlflow.tar" || [ $? = 1 ]
mv "$folder.partial" "$folder"
echo "$folder"
