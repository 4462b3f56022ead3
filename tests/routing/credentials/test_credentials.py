"""Keys at providers: tried by a real call, replaced only by one that works, switched off once with a reason, never told."""

import logging
from datetime import date
from uuid import UUID

import pytest
from django.db import connection

from billing.events.models import Event
from billing.events.services import SYSTEM, Actor
from iafactory.common.errors import ApiError
from routing.credentials import (
    credential_create,
    credential_disable,
    credential_enable,
    credential_rotate,
    credential_test,
    secret_probe,
)
from routing.models import Provider, ProviderCredential
from tests.fakes.company import BAD, BETTER, GOOD, Call, Company

from .conftest import profile_make

pytestmark = pytest.mark.django_db


@pytest.fixture
def credential(provider: Provider, actor: Actor) -> ProviderCredential:
    return credential_create(provider=provider, label="main", secret=GOOD, actor=actor, priority=7)


def stored(credential_id: UUID) -> ProviderCredential:
    return ProviderCredential.objects.get(pk=credential_id)


def kinds() -> list[str]:
    return list(Event.objects.order_by("at").values_list("kind", flat=True))


def test_a_credential_is_stored_encrypted_with_its_end_and_an_event(credential: ProviderCredential) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM routing_providercredential")
        [(raw,)] = cursor.fetchall()

    event = Event.objects.get()
    assert GOOD not in raw
    assert (credential.secret, credential.last_four, credential.enabled) == (GOOD, "good", True)
    assert (event.kind, event.after) == (
        "provider_credential.created",
        {"provider": "acme", "label": "main", "priority": 7},
    )
    assert GOOD not in str(list(Event.objects.values()))


def test_several_keys_of_one_provider_need_different_names(provider: Provider, actor: Actor, credential: object) -> None:
    credential_create(provider=provider, label="second", secret=BETTER, actor=actor)

    with pytest.raises(ApiError) as refusal:
        credential_create(provider=provider, label="main", secret=BETTER, actor=actor)

    assert (refusal.value.status, refusal.value.code) == (409, "credential_label_taken")
    assert ProviderCredential.objects.count() == 2


@pytest.mark.parametrize("secret", ["", " sk-1", "sk 1", "sk-1\n", "sk-é"])
def test_what_cannot_be_a_header_is_no_secret(provider: Provider, actor: Actor, secret: str) -> None:
    with pytest.raises(ApiError) as refusal:
        credential_create(provider=provider, label="main", secret=secret, actor=actor)

    assert (refusal.value.code, refusal.value.param) == ("invalid_request", "secret")
    assert not ProviderCredential.objects.exists()


def test_a_test_is_one_cheap_call_with_the_cheapest_model(
    credential: ProviderCredential, company: Company, actor: Actor
) -> None:
    probe = credential_test(credential.pk, actor)

    row = stored(credential.pk)
    assert company.calls == [Call("POST", "/v1/chat/completions", GOOD, "up-cheap", 16)]
    assert (probe.passed, probe.profile, probe.detail) == (True, "acme/cheap", "")
    assert probe.latency_ms is not None
    assert (row.test_result, row.enabled) == ("", True)
    assert row.tested_at is not None
    assert Event.objects.get(kind="provider_credential.tested").after["passed"] is True


def test_retired_switched_off_and_other_models_are_not_used_for_tests(provider: Provider, company: Company) -> None:
    profile_make(provider, "retired", "0.1", retires_on=date(2026, 1, 1))
    profile_make(provider, "off", "0.1", enabled=False)
    profile_make(provider, "image", "0.1", mode="image")

    probe = secret_probe(provider, GOOD)

    assert (probe.passed, company.calls) == (True, [Call("POST", "/v1/chat/completions", GOOD, "up-cheap", 16)])


def test_a_refused_key_is_noted_without_the_key_and_stays_as_it_was(
    provider: Provider, actor: Actor, caplog: pytest.LogCaptureFixture
) -> None:
    credential = credential_create(provider=provider, label="main", secret=BAD, actor=actor)

    with caplog.at_level(logging.DEBUG):
        probe = credential_test(credential.pk, actor)

    row = stored(credential.pk)
    assert (probe.passed, probe.failure, row.enabled) == (False, "auth", True)
    assert row.test_result.startswith("auth: ")
    for told in (row.test_result, str(list(Event.objects.values())), caplog.text, repr(probe)):
        assert BAD not in told


def test_a_key_that_cannot_be_decrypted_fails_its_test_without_a_call(
    credential: ProviderCredential, company: Company, actor: Actor
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE routing_providercredential SET secret = 'another installation wrote this'")

    probe = credential_test(credential.pk, actor)

    assert (probe.passed, company.calls) == (False, [])
    assert ProviderCredential.objects.defer("secret").get().test_result == "None of FIELD_ENCRYPTION_KEYS decrypts it."


def test_a_provider_that_is_away_fails_the_test(credential: ProviderCredential, provider: Provider, actor: Actor) -> None:
    Provider.objects.update(base_url="http://127.0.0.1:9/v1")

    probe = credential_test(credential.pk, actor)

    assert (probe.passed, probe.failure) == (False, "overloaded")


def test_a_provider_of_embeddings_is_tried_with_one(provider: Provider, company: Company) -> None:
    provider.profiles.update(enabled=False)
    profile_make(provider, "vectors", None, mode="embedding")
    profile_make(provider, "pictures", None, mode="image")

    probe = secret_probe(provider, GOOD)

    assert (probe.passed, company.calls) == (True, [Call("POST", "/v1/embeddings", GOOD, "up-vectors")])


def test_a_provider_of_speech_is_tried_with_one_letter(provider: Provider, company: Company) -> None:
    Provider.objects.update(protocol="elevenlabs", base_url=company.url.removesuffix("/v1"))
    profile_make(provider, "voice", None, mode="tts")
    provider.refresh_from_db()

    good, bad = secret_probe(provider, GOOD), secret_probe(provider, BAD)

    assert (bad.passed, bad.failure, good.failure is not bad.failure) == (False, "auth", True)
    assert [call.key for call in company.calls] == [GOOD, BAD]
    assert company.calls[0].path.startswith("/v1/text-to-speech/")


def test_a_provider_of_pictures_alone_cannot_be_tried(provider: Provider) -> None:
    provider.profiles.update(enabled=False)
    profile_make(provider, "pictures", None, mode="image")

    probe = secret_probe(provider, GOOD)

    assert (probe.passed, probe.detail) == (False, "The provider has no model in use that is cheap enough to try it with.")


def test_rotation_tries_the_new_key_and_keeps_the_old_one_disabled(
    credential: ProviderCredential, company: Company, actor: Actor
) -> None:
    new = credential_rotate(credential.pk, BETTER, actor, "yearly")

    old = stored(credential.pk)
    assert company.calls == [Call("POST", "/v1/chat/completions", BETTER, "up-cheap", 16)]
    assert (new.label, new.priority, new.enabled, stored(new.pk).secret) == ("main", 7, True, BETTER)
    assert (new.tested_at is not None, new.test_result) == (True, "")
    assert (old.secret, old.enabled, old.disabled_reason) == (GOOD, False, "rotated: yearly")
    assert old.label.startswith("main until 20")
    event = Event.objects.get(kind="provider_credential.rotated")
    assert (event.object_id, event.reason) == (str(credential.pk), "yearly")
    assert event.after == {"replaced_by": str(new.pk), "tested": True}


@pytest.mark.parametrize("status", [None, 503])
def test_rotation_to_a_key_that_fails_changes_nothing(
    credential: ProviderCredential, company: Company, actor: Actor, status: int | None
) -> None:
    company.status = status

    with pytest.raises(ApiError) as refusal:
        credential_rotate(credential.pk, BAD, actor, "yearly")

    row = stored(credential.pk)
    assert (refusal.value.status, refusal.value.code) == (409, "credential_test_failed")
    assert BAD not in refusal.value.message
    assert (row.label, row.secret, row.enabled) == ("main", GOOD, True)
    assert ProviderCredential.objects.count() == 1
    assert kinds() == ["provider_credential.created"]


def test_rotation_without_a_test_calls_nobody(credential: ProviderCredential, company: Company, actor: Actor) -> None:
    new = credential_rotate(credential.pk, BAD, actor, "leaked", untested=True)

    assert (company.calls, stored(new.pk).secret, new.tested_at) == ([], BAD, None)
    assert Event.objects.get(kind="provider_credential.rotated").after["tested"] is False


def test_a_key_that_nobody_decrypts_can_be_rotated(credential: ProviderCredential, actor: Actor) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE routing_providercredential SET secret = 'another installation wrote this'")

    new = credential_rotate(credential.pk, BETTER, actor, "lost")

    assert stored(new.pk).secret == BETTER


def test_disabling_again_keeps_the_first_reason_and_writes_one_event(credential: ProviderCredential) -> None:
    credential_disable(credential.pk, "the provider refuses it: auth", SYSTEM)
    first = stored(credential.pk)
    credential_disable(credential.pk, "again", SYSTEM)

    row = stored(credential.pk)
    assert (row.enabled, row.disabled_reason) == (False, "the provider refuses it: auth")
    assert (row.disabled_at, row.disabled_at is not None) == (first.disabled_at, True)
    event = Event.objects.get(kind="provider_credential.disabled")
    assert (event.actor_kind, event.reason) == ("system", "the provider refuses it: auth")


def test_enabling_forgets_why_it_was_disabled_once(credential: ProviderCredential, actor: Actor) -> None:
    credential_disable(credential.pk, "no funds", SYSTEM)

    credential_enable(credential.pk, actor, "paid")
    credential_enable(credential.pk, actor, "paid")

    row = stored(credential.pk)
    assert (row.enabled, row.disabled_reason, row.disabled_at) == (True, "", None)
    assert kinds() == [f"provider_credential.{kind}" for kind in ("created", "disabled", "enabled")]
