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
# After the databases: every file that they name is there. tar's 1 says that something was being written meanwhile;
# compose's own 1, that nothing was read at all, ends this.
$compose exec -T mlflow sh -c 'tar -C /data -cf - . || [ $? = 1 ]' >"$folder.partial/mlflow.tar"
mv "$folder.partial" "$folder"
echo "$folder"
