"""`manage.py preflight` finds what would make an installation fail later."""

from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection

from dashboard import preflight as module
from dashboard.preflight import CLOCK_TOLERANCE, Result, preflight
from iafactory.common import clock, crypto
from routing.catalog import catalog_load
from routing.models import Provider, ProviderCredential

pytestmark = pytest.mark.django_db


def looked() -> dict[str, Result]:
    return {result.name: result for result in preflight()}


def test_a_complete_installation_passes(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog_load()
    ProviderCredential.objects.create(provider=Provider.objects.get(slug="groq"), label="main", secret="gsk-1")
    out = StringIO()
    # The tests' own PostgreSQL runs without fsync.
    monkeypatch.setattr(module, "_ALL", tuple(look for look in module._ALL if look is not module._postgresql))

    call_command("preflight", stdout=out)

    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.startswith("FAILED")] == []
    assert len(lines) == 10
    assert any("alerts: no target" in line for line in lines)
    assert any(line.startswith("ok") and "1 provider credentials open" in line for line in lines)


def test_what_is_missing_is_named_and_stops_the_deployment(settings: Any) -> None:
    settings.METRICS_FOLDER = "/nowhere/metrics"
    out = StringIO()

    with pytest.raises(CommandError, match="2 things must be put right"):
        call_command("preflight", stdout=out)

    assert "FAILED   folders: cannot be written: /nowhere/metrics" in out.getvalue()
    assert "FAILED   providers: no model has a price: run load_catalog" in out.getvalue()


def test_before_the_migration_nothing_of_this_release_is_looked_at() -> None:
    names = [result.name for result in preflight(before_migrate=True)]

    assert names == ["settings", "postgresql", "redis", "clock", "folders"]


def test_a_database_that_forgets_on_power_loss_is_told() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")

    result = looked()["postgresql"]

    assert (result.ok, result.warning) == (False, True)
    assert "synchronous_commit = off" in result.text


def test_in_production_it_stops_the_deployment(settings: Any) -> None:
    settings.PRODUCTION = True
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")

    assert not looked()["postgresql"].warning


def test_credentials_that_no_key_opens_are_counted(settings: Any) -> None:
    provider = Provider.objects.create(slug="x", name="X", protocol="openai", base_url="https://x.example/v1")
    ProviderCredential.objects.create(provider=provider, label="main", secret="sk-1")
    settings.FIELD_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    crypto._forget_keys(setting="FIELD_ENCRYPTION_KEYS")

    result = looked()["secrets"]

    assert (result.ok, result.text) == (False, "1 of 1 provider credentials open with no key of FIELD_ENCRYPTION_KEYS")


def test_a_clock_that_runs_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    late = clock.now() - 2 * CLOCK_TOLERANCE
    monkeypatch.setattr(module.clock, "now", lambda: late)

    result = looked()["clock"]

    assert not result.ok
    assert result.text.startswith("4.")
