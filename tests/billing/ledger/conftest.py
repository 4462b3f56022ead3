"""Committed data for the tests that need more than one connection."""

from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from tests.live.conftest import live_database  # noqa: F401  the test database without a test's own transaction


@pytest.fixture
def committed(live_database: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:  # noqa: F811
    """What the test writes is committed and stays: the books must verify all the same."""
    with django_db_blocker.unblock():
        yield
        connection.close()
