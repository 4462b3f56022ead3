"""A new master key: every secret moves under it, nothing is lost, and the old key can go."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken
from django.core.management import CommandError, call_command
from django.db import connection

from billing.ledger.models import StoredAnswer
from iafactory.common import clock
from iafactory.common.crypto import encrypt
from iafactory.common.ids import uuid7
from iafactory.common.reencryption import encrypted_fields, secrets_reencrypt
from routing.models import Provider, ProviderCredential
from tests.factories import account_make

pytestmark = pytest.mark.django_db

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
CREDENTIALS = "routing.ProviderCredential.secret"


@pytest.fixture
def provider() -> Provider:
    return Provider.objects.create(slug="acme", name="Acme", protocol="openai", base_url="https://api.acme.example/v1")


@pytest.fixture
def rows(settings: Any, provider: Provider) -> None:
    """Five credentials and a kept answer under the old key, then the new one in front."""
    settings.FIELD_ENCRYPTION_KEYS = [OLD]
    for number in range(5):
        ProviderCredential.objects.create(provider=provider, label=f"key {number}", secret=f"sk-{number}")
    account = account_make()
    StoredAnswer.objects.create(
        id=uuid7(),
        account=account,
        key="order-1",
        body_hash="b" * 64,
        status=200,
        content="bonjour",
        expires_at=clock.now() + timedelta(hours=24),
    )
    StoredAnswer.objects.create(
        id=uuid7(), account=account, key="order-2", body_hash="b" * 64, status=200, expires_at=clock.now()
    )
    settings.FIELD_ENCRYPTION_KEYS = [NEW, OLD]


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("reencrypt_secrets", *arguments, stdout=out)
    return out.getvalue()


def counts(**options: Any) -> dict[str, tuple[int, int, int]]:
    return {count.label: (count.stale, count.fresh, count.lost) for count in secrets_reencrypt(**options)}


def raw() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM routing_providercredential ORDER BY label")
        return [token for (token,) in cursor.fetchall()]


def test_every_encrypted_column_of_the_product_is_found() -> None:
    labels = {f"{model._meta.label}.{field.name}" for model, field in encrypted_fields()}

    assert labels >= {CREDENTIALS, "billing.StoredAnswer.content"}


def test_after_it_the_old_key_can_be_taken_away(settings: Any, rows: None) -> None:
    said = run()
    settings.FIELD_ENCRYPTION_KEYS = [NEW]

    secrets = ProviderCredential.objects.order_by("label").values_list("secret", flat=True)
    assert list(secrets) == ["sk-0", "sk-1", "sk-2", "sk-3", "sk-4"]
    assert list(StoredAnswer.objects.order_by("key").values_list("content", flat=True)) == ["bonjour", None]
    assert f"{CREDENTIALS}: 5 encrypted anew, 0 already fresh, 0 unreadable" in said
    assert "billing.StoredAnswer.content: 1 encrypted anew" in said
    assert said.endswith("6 encrypted anew.\n")


def test_without_it_the_old_key_is_still_needed(settings: Any, rows: None) -> None:
    settings.FIELD_ENCRYPTION_KEYS = [NEW]

    with pytest.raises(InvalidToken):
        ProviderCredential.objects.get(label="key 0")


def test_a_dry_run_counts_and_writes_nothing(rows: None) -> None:
    before = raw()

    said = run("--dry-run")

    assert raw() == before
    assert f"{CREDENTIALS}: 5 to encrypt anew" in said
    assert "Dry run, nothing written: 6 to encrypt anew." in said


@pytest.mark.parametrize("batch_rows", [1, 2, 5, 500])
def test_any_size_of_batches_reaches_every_row_and_again_is_the_same(rows: None, batch_rows: int) -> None:
    first = counts(batch_rows=batch_rows)
    tokens = raw()
    again = counts(batch_rows=batch_rows)

    assert first[CREDENTIALS] == (5, 0, 0)
    assert again[CREDENTIALS] == (0, 5, 0)
    assert raw() == tokens


def test_it_goes_on_where_it_was_stopped(rows: None) -> None:
    ProviderCredential.objects.filter(label__in=["key 0", "key 1"]).update(secret="sk-done")

    assert counts()[CREDENTIALS] == (3, 2, 0)


def test_the_age_of_a_token_is_kept(rows: None) -> None:
    made = Fernet(OLD).extract_timestamp(raw()[0].encode())
    run()

    assert Fernet(NEW).extract_timestamp(raw()[0].encode()) == made


def test_what_no_key_decrypts_stays_and_fails_the_command(rows: None) -> None:
    stranger = Fernet(Fernet.generate_key()).encrypt(b"sk-lost").decode()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE routing_providercredential SET secret = %s WHERE label = 'key 2'", [stranger])

    with pytest.raises(CommandError, match="1 values cannot be read"):
        run()

    assert raw()[2] == stranger
    assert counts()[CREDENTIALS] == (0, 4, 1)


def test_a_value_that_somebody_replaces_meanwhile_is_theirs(rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from iafactory.common import reencryption

    fresh_token = reencryption._fresh_token

    def replaced_first(token: str, *keys: Any) -> str | None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE routing_providercredential SET secret = %s WHERE secret = %s", [encrypt("sk-new"), token])
        return fresh_token(token, *keys)

    monkeypatch.setattr(reencryption, "_fresh_token", replaced_first)
    counts()

    assert set(ProviderCredential.objects.values_list("secret", flat=True)) == {"sk-new"}
