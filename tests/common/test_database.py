"""Connections past a pooler: those that a process keeps go there, and nothing that a pooler cannot keep is asked of it."""

import os
from typing import Any

import pytest
from django.conf import settings
from psycopg.conninfo import make_conninfo

from iafactory.common import database
from iafactory.common.database import conninfo


@pytest.fixture
def direct(settings: Any) -> str:
    """The tests' own PostgreSQL under an address of its own, while DATABASE_URL leads nowhere."""
    address = conninfo()
    settings.DATABASE_DIRECT_URL = make_conninfo(address, options="")
    settings.DATABASES = {"default": settings.DATABASES["default"] | {"HOST": "/nowhere", "OPTIONS": {}}}
    return address


@pytest.mark.asyncio
async def test_a_connection_that_is_kept_goes_past_the_pooler_with_its_own_settings(direct: str) -> None:
    async with await database.connect(application_name="iafactory-holds") as connection:
        shown = await connection.execute("SELECT current_setting('timezone'), current_setting('application_name')")
        row = await shown.fetchone()

    assert row == ("UTC", "iafactory-holds")


@pytest.mark.asyncio
async def test_behind_a_pooler_no_statement_is_prepared(direct: str) -> None:
    behind = database.open_pool()
    settings.DATABASE_DIRECT_URL = ""
    beside = database.open_pool()

    assert behind.kwargs == {"autocommit": True, "prepare_threshold": None}
    assert beside.kwargs == {"autocommit": True}


def test_behind_a_pooler_no_cursor_outlives_its_transaction() -> None:
    assert settings.DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] is bool(os.environ.get("DATABASE_DIRECT_URL"))
