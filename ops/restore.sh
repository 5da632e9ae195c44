#!/usr/bin/env bash
# Puts a folder that backup.sh made in the place of what the running stack holds.
set -euo pipefail
cd "$(dirname "$0")/.."
compose=${COMPOSE:-docker compose}
folder=${1:?give the folder: make restore FROM=backups/...}
for file in mlflow.dump prefect.dump optuna.dump mlflow.tar; do
    [ -s "$folder/$file" ] || { echo "$folder/$file: it is missing or empty; give a folder that make backup has made" >&2; exit 2; }
done
$compose up -d postgres
until $compose exec -T postgres pg_isready --username=aemodels --dbname=optuna --host=127.0.0.1 --quiet; do sleep 1; done
gpu=$($compose --profile gpu ps -q worker-gpu)
$compose --profile gpu stop worker worker-gpu mlflow prefect
for database in mlflow prefect optuna; do
    $compose exec -T postgres psql --username=aemodels --dbname=postgres --quiet \
        --command="DROP DATABASE IF EXISTS $database WITH (FORCE)" --command="CREATE DATABASE $database"
    $compose exec -T postgres pg_restore --username=aemodels --dbname="$database" --exit-on-error <"$folder/$database.dump"
done
# Who held a limit when the backup was made holds it no more.
$compose exec -T postgres psql --username=aemodels --dbname=prefect --quiet \
    --command="UPDATE concurrency_limit_v2 SET active_slots = 0"
$compose run --rm -T --no-deps mlflow sh -c 'rm -rf /data/* && tar -C /data -xf -' <"$folder/mlflow.tar"
$compose up -d
[ -z "$gpu" ] || $compose --profile gpu up -d worker-gpu
