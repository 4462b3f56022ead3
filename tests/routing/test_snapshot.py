"""The catalogue as routing sees it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection
from pytest_django import Settings

from iafactory.common import crypto
from routing.models import AiModel, ModelProfile, Provider, ProviderCredential
from routing.snapshot import snapshot_load

pytestmark = pytest.mark.django_db


def provider_with_model() -> Provider:
    provider = Provider.objects.create(slug="acme", name="Acme", protocol="openai", base_url="https://acme.example/v1")
    model = AiModel.objects.create(name="anvil", aliases=["acme/anvil"])
    ModelProfile.objects.create(slug="acme/anvil", provider=provider, model=model, upstream_model="anvil-1")
    return provider


def test_a_provider_without_credential_is_called_nowhere_but_in_the_simulator(settings: Settings) -> None:
    provider_with_model()
    settings.SIMULATOR_URL = ""
    without = snapshot_load()
    settings.SIMULATOR_URL = "http://127.0.0.1:1"

    simulated = snapshot_load()

    assert without.models["anvil"].routes == ()
    assert [(route.base_url, route.simulated) for route in simulated.models["anvil"].routes] == [
        ("http://127.0.0.1:1/acme/v1", True)
    ]


@pytest.mark.parametrize(
    ("base_url", "simulated"),
    [
        ("https://acme.example/openai/v1/", "/acme/v1"),
        ("https://acme.example/v1beta", "/acme/v1beta"),
        ("https://acme.example/v2", "/acme/v2"),
        ("https://acme.example", "/acme/v1"),
        ("https://acme.example/v1/openai", "/acme/v1"),
    ],
)
def test_the_simulator_is_addressed_with_the_version_the_protocol_expects(
    base_url: str, simulated: str, settings: Settings
) -> None:
    provider_with_model()
    Provider.objects.update(base_url=base_url)
    settings.SIMULATOR_URL = "http://127.0.0.1:1"

    [route] = snapshot_load().models["anvil"].routes

    assert route.base_url == f"http://127.0.0.1:1{simulated}"


def test_a_credential_is_used_and_never_shown() -> None:
    ProviderCredential.objects.create(provider=provider_with_model(), label="main", secret="sk-very-secret")

    [route] = snapshot_load().models["anvil"].routes

    assert (route.base_url, [c.secret for c in route.credentials], route.simulated) == (
        "https://acme.example/v1",
        ["sk-very-secret"],
        False,
    )
    assert "sk-very-secret" not in repr(route)


def test_a_credential_nobody_can_decrypt_does_not_stop_the_others(settings: Settings) -> None:
    provider = provider_with_model()
    settings.FIELD_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    ProviderCredential.objects.create(provider=provider, label="lost", secret="sk-lost")
    settings.FIELD_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    ProviderCredential.objects.create(provider=provider, label="good", secret="sk-good")

    [route] = snapshot_load().models["anvil"].routes

    assert [credential.secret for credential in route.credentials] == ["sk-good"]
    assert crypto.decrypt(crypto.encrypt("x")) == "x"


def test_an_alias_leads_to_its_model_and_a_real_name_wins() -> None:
    provider_with_model()
    AiModel.objects.create(name="other", aliases=["anvil", "acme/anvil-2"])

    snapshot = snapshot_load()

    assert [snapshot.names.get(name) for name in ("anvil", "acme/anvil", "acme/anvil-2")] == ["anvil", "anvil", "other"]


@pytest.mark.django_db(transaction=True)
def test_a_change_made_while_it_is_read_is_in_it_whole_or_not_at_all() -> None:
    provider = provider_with_model()
    ProviderCredential.objects.create(provider=provider, label="main", secret="sk-one")
    read: list[str] = []

    def sell_another_model() -> None:
        other = Provider.objects.create(slug="other", name="Other", protocol="openai", base_url="https://other.example/v1")
        ProviderCredential.objects.create(provider=other, label="main", secret="sk-other")
        model = AiModel.objects.create(name="hammer")
        ModelProfile.objects.create(slug="other/hammer", provider=other, model=model, upstream_model="hammer-1")
        connection.close()

    def commit_after_credentials(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if "routing_providercredential" in sql and not read:
            read.append(sql)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(sell_another_model).result()
        return result

    with connection.execute_wrapper(commit_after_credentials):
        during = snapshot_load()
    after = snapshot_load()

    assert len(read) == 1
    assert sorted(during.models) == ["anvil"]
    assert sorted(after.models) == ["anvil", "hammer"]
    assert [credential.secret for credential in after.models["hammer"].routes[0].credentials] == ["sk-other"]
