#!/bin/sh
# Starts one of a team's two servers, in a container or without one: ops/serve.sh mlflow|prefect [OPTION...]
#
# It reads these from the environment; MLflow and Prefect read the addresses of their databases themselves:
#   TEAM_PASSWORD              the password of the user `admin` on both servers, or the word `without-passwords`
#   TEAM_FOLDER                where MLflow keeps its users, and artifacts unless MLFLOW_ARTIFACTS_DESTINATION is set
#   MLFLOW_URL, PREFECT_URL    where browsers find the servers, if not at 127.0.0.1
#   MLFLOW_PORT, PREFECT_PORT  where the servers listen, if not at 5000 and 4200
#   PUBLISHED_PORT             where browsers find the port of a container, if it is another
set -eu
umask 077 # what the servers write, such as their users, is for them alone

fail() {
    echo "$1" >&2
    exit 2
}

ops=$(cd "$(dirname "$0")" && pwd)
PATH=$ops/../.venv/bin:$PATH
server=${1:-}
[ $# = 0 ] || shift

case ${TEAM_PASSWORD:-} in
without-passwords) passwords=no ;;
????????????*) passwords=yes ;;
*) fail "TEAM_PASSWORD: give twelve characters or more, or the word without-passwords for servers that ask for none" ;;
esac
export DO_NOT_TRACK=1

case $server in
mlflow)
    port=${MLFLOW_PORT:-5000}
    page=${MLFLOW_URL:-http://127.0.0.1:${PUBLISHED_PORT:-$port}}
    page=${page%/}
    host=${page#*://}
    folder=${TEAM_FOLDER:-}
    [ -d "$folder" ] || fail "TEAM_FOLDER=$folder: no such folder; give one for the users and artifacts of MLflow"
    cd "$folder"
    export MLFLOW_PORT="$port" MLFLOW_DISABLE_TELEMETRY=true
    export MLFLOW_ARTIFACTS_DESTINATION="${MLFLOW_ARTIFACTS_DESTINATION:-$PWD/artifacts}"
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # nobody gives it jobs, whose processes would take 1.5 GB
    # Under other names it does not answer. Its own list has patterns, such as 10.*, which somebody's 10.example.org fits.
    export MLFLOW_SERVER_ALLOWED_HOSTS="localhost:*,127.0.0.1:*,mlflow:5000,${host%%/*}" # mlflow: among containers
    export MLFLOW_SERVER_CORS_ALLOWED_ORIGINS="$page" # else its own pages may only read, behind a proxy
    if [ $passwords = yes ]; then
        export MLFLOW_AUTH_CONFIG_PATH="$ops/mlflow-auth.ini" PYTHONPATH="$ops"
        export MLFLOW_AUTH_ADMIN_USERNAME=admin MLFLOW_AUTH_ADMIN_PASSWORD="$TEAM_PASSWORD"
        MLFLOW_FLASK_SERVER_SECRET_KEY=$(head -c 32 /dev/urandom | base64) # signs the form for new users
        export MLFLOW_FLASK_SERVER_SECRET_KEY
        set -- --app-name basic-auth "$@"
    fi
    exec mlflow server --workers 1 "$@"
    ;;
prefect)
    port=${PREFECT_PORT:-4200}
    page=${PREFECT_URL:-http://127.0.0.1:${PUBLISHED_PORT:-$port}}
    page=${page%/}
    export PREFECT_SERVER_API_PORT="$port" PREFECT_SERVER_UI_API_URL="$page/api" PREFECT_SERVER_ANALYTICS_ENABLED=false
    # A change needs a token, and only these pages may read one: no other page that is open in a browser can start runs.
    export PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS=$page,$(echo "$page" | sed 's,//127.0.0.1,//localhost,')
    export PREFECT_SERVER_CORS_ALLOWED_ORIGINS
    # Who holds a limit: kept in memory, a restart would forget it, and the limit would stay taken for ever.
    export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem
    unset PREFECT_SERVER_API_AUTH_STRING
    [ $passwords = no ] || export PREFECT_SERVER_API_AUTH_STRING="admin:$TEAM_PASSWORD"
    exec prefect server start "$@"
    ;;
*) fail "$server: no such server; give mlflow or prefect" ;;
esac
