"""Migrations say what the models say, and can be taken back and applied again on a real database."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from .product import PROJECT

Manage = Callable[..., str]

# Tables with their columns, constraints and triggers, and functions: all that our migrations make.
SHAPE = """
    SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN '!' ELSE '' END
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'function', proname, '', pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'
    UNION ALL
    SELECT 'type', typname, '', typtype::text FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('c', 'e')
"""


@pytest.fixture
def scratch_url() -> Iterator[str]:
    """The address of an empty database of its own, dropped afterwards."""
    url = os.environ["DATABASE_URL"]
    name = f"scratch_migrations_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def manage(scratch_url: str) -> Manage:
    """Runs a management command on the scratch database, as an operator would; answers its output."""

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env=os.environ | {"DATABASE_URL": scratch_url},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def shape(url: str) -> set[tuple[str, ...]]:
    """Everything that exists in the database's public schema."""
    with psycopg.connect(url) as database:
        return set(database.execute(SHAPE).fetchall())


def ours(things: set[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """What belongs to our apps, and every function: nobody else makes any."""
    return sorted(thing[:3] for thing in things if thing[0] == "function" or thing[1].startswith(("billing_", "routing_")))


def test_migrations_say_what_the_models_say(manage: Manage) -> None:
    assert "No changes detected" in manage("makemigrations", "--check", "--dry-run")


def test_migrations_can_be_taken_back_and_applied_again(scratch_url: str, manage: Manage) -> None:
    manage("migrate", "--verbosity=0")
    applied = shape(scratch_url)

    manage("migrate", "routing", "zero", "--verbosity=0")
    manage("migrate", "billing", "zero", "--verbosity=0")
    taken_back = shape(scratch_url)
    manage("migrate", "--verbosity=0")
    applied_again = shape(scratch_url)

    assert ("column", "billing_wallet", "balance", "numeric(20,6)!") in applied
    assert ours(taken_back) == []
    assert applied_again == applied
