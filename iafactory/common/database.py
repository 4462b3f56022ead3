"""Async PostgreSQL beside Django's own connections: for the gateway, which never uses the ORM on a call's way."""

from typing import Any

import psycopg
from django.conf import settings
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

_OPTIONS = "-c timezone=UTC"


def conninfo(**extra: Any) -> str:
    """libpq's connection string for the database of `DATABASE_URL`, in UTC; `extra` adds or replaces parameters."""
    database = settings.DATABASES["default"]
    parameters: dict[str, Any] = {
        "dbname": database["NAME"],
        "user": database["USER"],
        "password": database["PASSWORD"],
        "host": database["HOST"],
        "port": database["PORT"],
        **{k: v for k, v in database.get("OPTIONS", {}).items() if k in ("sslmode", "sslrootcert", "host", "service")},
        "options": _OPTIONS,
        "application_name": "iafactory",
        "connect_timeout": 5,
        **extra,
    }
    return make_conninfo("", **{key: value for key, value in parameters.items() if value not in (None, "")})


def open_pool() -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
    """A closed pool of autocommit connections; the owner opens it inside its event loop."""
    return AsyncConnectionPool(
        conninfo(),
        min_size=1,
        max_size=settings.DATABASE_ASYNC_POOL_SIZE,
        # Behind a pooler the next transaction may meet another server, which has not prepared the statement.
        kwargs={"autocommit": True} | ({"prepare_threshold": None} if settings.DATABASE_DIRECT_URL else {}),
        open=False,
        timeout=5,
        check=AsyncConnectionPool.check_connection,
        name="gateway",
    )


async def connect(**extra: Any) -> psycopg.AsyncConnection[Any]:
    """One autocommit connection outside the pool, for those that keep it: the group-commit writers and the listener.

    It goes past a pooler: what they set, and listen to, belongs to their own session.
    """
    direct = settings.DATABASE_DIRECT_URL
    address = make_conninfo(direct, options=_OPTIONS, connect_timeout=5, **extra) if direct else conninfo(**extra)
    return await psycopg.AsyncConnection.connect(address, autocommit=True)
