#!/usr/bin/env bash
# Backs the installation up: backup.sh FOLDER
#
# Writes FOLDER/<UTC time>/ with the database, the day seals and their checksums. DATABASE_URL names the database, BOOKS_SEAL_FILE
# the seals (optional). pg_dump must be of the server's version or newer. Secrets are not in a backup: keep SECRET_KEY,
# JWT_SIGNING_KEY and FIELD_ENCRYPTION_KEYS where your secrets are; without the last one stored provider keys cannot be read.
# Redis needs no backup: limits, quotas and budgets are rebuilt from the database.
set -euo pipefail

folder=${1:?usage: backup.sh FOLDER}
: "${DATABASE_URL:?name the database in DATABASE_URL}"
target="$folder/$(date --utc +%Y-%m-%dT%H%M%SZ)"
umask 077
mkdir -p "$target.part"
pg_dump --dbname="$DATABASE_URL" --format=custom --no-owner --no-privileges --file="$target.part/database.dump"
if [ -n "${BOOKS_SEAL_FILE:-}" ] && [ -f "$BOOKS_SEAL_FILE" ]; then
    cp "$BOOKS_SEAL_FILE" "$target.part/seals.txt"
fi
(cd "$target.part" && sha256sum ./* > SHA256SUMS)
# A folder without .part is whole.
mv "$target.part" "$target"
echo "$target"
