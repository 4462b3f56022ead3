"""Bringing every encrypted value under the newest key, so that older keys can be taken out of `FIELD_ENCRYPTION_KEYS`."""

from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.apps import apps
from django.conf import settings
from django.db import connection, models, transaction
from psycopg import sql

from .crypto import EncryptedTextField

BATCH_ROWS = 500


@dataclass(slots=True)
class FieldCount:
    """What was found in one encrypted column; `stale` were, or in a dry run would be, encrypted anew."""

    label: str
    fresh: int = 0
    stale: int = 0
    lost: int = 0
    """Values that none of the keys decrypts."""


def encrypted_fields() -> list[tuple[type[models.Model], EncryptedTextField]]:
    """Every encrypted column of every installed model, its own only (not those of a parent's table)."""
    return [
        (model, field)
        for model in apps.get_models(include_auto_created=True)
        if model._meta.managed and not model._meta.proxy
        for field in model._meta.local_fields
        if isinstance(field, EncryptedTextField)
    ]


def secrets_reencrypt(*, dry_run: bool = False, batch_rows: int = BATCH_ROWS) -> Iterator[FieldCount]:
    """Encrypt every value anew that is not under the first of `FIELD_ENCRYPTION_KEYS`; counts per column, as they are done.

    Each batch is a transaction of its own, values already fresh are left alone, and a value that somebody replaced meanwhile is
    theirs: it may be stopped, repeated and run beside the product. What no key decrypts stays as it is and is counted.
    """
    keys = [Fernet(key) for key in settings.FIELD_ENCRYPTION_KEYS]
    for model, field in encrypted_fields():
        yield _column_reencrypt(model, field, keys, dry_run=dry_run, batch_rows=batch_rows)


def _column_reencrypt(
    model: type[models.Model], field: EncryptedTextField, keys: list[Fernet], *, dry_run: bool, batch_rows: int
) -> FieldCount:
    count = FieldCount(f"{model._meta.label}.{field.name}")
    names = {
        "table": sql.Identifier(model._meta.db_table),
        "pk": sql.Identifier(str(model._meta.pk.column)),
        "column": sql.Identifier(str(field.column)),
    }
    first = sql.SQL("SELECT {pk}, {column} FROM {table} WHERE {column} <> '' ORDER BY {pk} LIMIT %s").format(**names)
    following = sql.SQL("SELECT {pk}, {column} FROM {table} WHERE {column} <> '' AND {pk} > %s ORDER BY {pk} LIMIT %s").format(
        **names
    )
    write = sql.SQL("UPDATE {table} SET {column} = %s WHERE {pk} = %s AND {column} = %s").format(**names)
    newest, all_keys = keys[0], MultiFernet(keys)
    last = None
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            if last is None:
                cursor.execute(first, [batch_rows])
            else:
                cursor.execute(following, [last, batch_rows])
            rows = cursor.fetchall()
            for pk, token in rows:
                fresh = _fresh_token(token, newest, all_keys)
                if fresh is None:
                    count.lost += 1
                elif fresh == token:
                    count.fresh += 1
                else:
                    count.stale += 1
                    if not dry_run:
                        cursor.execute(write, [fresh, pk, token])
        if len(rows) < batch_rows:
            return count
        last = rows[-1][0]


def _fresh_token(token: str, newest: Fernet, all_keys: MultiFernet) -> str | None:
    """`token` itself when the newest key decrypts it, else its text under that key, None when no key decrypts it."""
    try:
        newest.decrypt(token.encode())
    except InvalidToken:
        try:
            return all_keys.rotate(token.encode()).decode()
        except InvalidToken:
            return None
    return token
