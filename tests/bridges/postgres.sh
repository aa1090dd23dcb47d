#!/usr/bin/env bash
# Runs a PostgreSQL server until standard input ends. Prints a connection string when the server answers.
#   tests/bridges/postgres.sh [OPTION...]     options of the server, for example -c fsync=off
set -euo pipefail
shopt -s nullglob
programs=(/usr/lib/postgresql/*/bin/initdb)
[ "${#programs[@]}" -gt 0 ] || { echo "there is no PostgreSQL: run: apt-get install postgresql" >&2; exit 1; }
programs=$(dirname "${programs[-1]}")

dir=$(mktemp -d)
as_user=()
if [ "$(id -u)" -eq 0 ]; then
    # PostgreSQL refuses to run as root.
    as_user=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    chown postgres "$dir"
fi
cd "$dir"
stop() {
    "${as_user[@]}" "$programs/pg_ctl" -D data -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap stop EXIT
"${as_user[@]}" "$programs/initdb" -D data -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
"${as_user[@]}" "$programs/pg_ctl" -D data -w -t 60 -l data/log -o "-k $dir -c listen_addresses= $*" start >/dev/null || { cat data/log >&2; exit 1; }
echo "host=$dir user=postgres dbname=postgres"
read -r _ || true
