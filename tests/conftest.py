"""Starts the servers and loads Django before any test module or conftest below is imported.

pytest-django would read the settings before this file if pyproject.toml named DJANGO_SETTINGS_MODULE, so it does not.
"""

import time

import django
import pytest

from iafactory.local.testing import TestEnvironment

from .turns import seconds_to_wait

_environment = TestEnvironment()
_environment.start()
django.setup()

from django.db.backends.postgresql.operations import DatabaseOperations  # noqa: E402

_execute_sql_flush = DatabaseOperations.execute_sql_flush


def _flush_append_only_tables_too(self: DatabaseOperations, sql_list: list[str]) -> None:
    """Tests that commit clean up by TRUNCATE, which the books' own triggers refuse: switch triggers off for that alone."""
    _execute_sql_flush(self, ["SET LOCAL session_replication_role = replica", *sql_list] if sql_list else [])


DatabaseOperations.execute_sql_flush = _flush_append_only_tables_too  # type: ignore[method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """No test looks on while an hour, a day or a month ends: those that count within one, or ask twice what day it is, begin
    after its end instead of shortly before."""
    if wait := seconds_to_wait(time.time()):
        time.sleep(wait)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    _environment.stop()
