"""Tests of the local servers run in throw-away folders."""

import shutil

import pytest


@pytest.fixture(autouse=True)
def _no_data_outside(tmp_path):
    """Root's PostgreSQL cannot enter pytest's folders and keeps its data elsewhere; a killed owner cannot remove it."""
    yield
    for record in tmp_path.rglob("postgres.location"):
        shutil.rmtree(record.read_text().strip(), ignore_errors=True)
