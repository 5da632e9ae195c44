# First start: a cluster with POSTGRES_USER and POSTGRES_PASSWORD, then the scripts of docker-entrypoint-initdb.d.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --encoding=UTF8 --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") --auth-host=scram-sha-256 --auth-local=trust
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses=''" start
    for script in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -f "$script" ] || psql --username="$POSTGRES_USER" --dbname=postgres --set=ON_ERROR_STOP=1 --file="$script"
    done
    pg_ctl --wait stop
fi
exec postgres -c listen_addresses='*'
