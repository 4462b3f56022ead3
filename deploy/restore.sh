#!/usr/bin/env bash
# Restores a backup: restore.sh FOLDER/<UTC time>
#
# DATABASE_URL names an empty database, made for this. Afterwards, with BOOKS_SEAL_FILE=…/seals.txt: manage.py preflight and
# manage.py verify_books, and only then let web processes at it. All or nothing: a restore that fails leaves the database empty.
set -euo pipefail

source=${1:?usage: restore.sh FOLDER}
: "${DATABASE_URL:?name an empty database in DATABASE_URL}"
(cd "$source" && sha256sum --check --quiet SHA256SUMS)
tables=$(psql --dbname="$DATABASE_URL" --no-psqlrc --tuples-only --no-align \
    --command="SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
if [ "$tables" != 0 ]; then
    echo "error: the database has $tables tables; restore into an empty one" >&2
    exit 1
fi
pg_restore --dbname="$DATABASE_URL" --single-transaction --exit-on-error --no-owner --no-privileges "$source/database.dump"
psql --dbname="$DATABASE_URL" --no-psqlrc --quiet --command="ANALYZE"
