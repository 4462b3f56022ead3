"""Addresses of PostgreSQL and Redis in the forms that each library understands.

Two forms are kept in the environment. `DATABASE_URL` is `postgres://user@/name?host=/folder&port=5432`: django-environ
puts `host` and `port` into the connection's options, and libpq (so psycopg, psql, pg_dump) accepts the same string.
`REDIS_URL` is redis-py's `unix:///path?db=0`, which django-redis takes as it is; Celery's form is derived here.
"""

from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

POSTGRES_PORT = 5432


def postgres_url(socket_folder: str, *, database: str, user: str = "postgres") -> str:
    """The URL of a PostgreSQL on `socket_folder/.s.PGSQL.5432`. The port is named so that PGPORT cannot change it."""
    query = urlencode({"host": socket_folder, "port": POSTGRES_PORT}, safe="/")
    return f"postgres://{quote(user)}@/{quote(database)}?{query}"


def redis_url(socket_path: str, *, database: int = 0) -> str:
    """redis-py's and django-redis's URL of a Redis that listens on the UNIX socket `socket_path`."""
    return f"unix://{quote(socket_path)}?db={database}"


def celery_broker_url(url: str) -> str:
    """Celery's form of a Redis URL: `unix:///path?db=1` is `redis+socket:///path?virtual_host=1`; TCP is the same."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    query = parse_qs(parts.query)
    options = {"virtual_host": query.pop("db", ["0"])[0], **{name: values[0] for name, values in query.items()}}
    # kombu reads the path as it stands, redis-py unquotes it.
    return f"redis+socket://{unquote(parts.path)}?{urlencode(options)}"
