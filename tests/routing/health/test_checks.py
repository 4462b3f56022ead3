"""What checks ask, what they keep, and what comes of it."""

import os
from collections.abc import Iterator

import pytest
import redis
from freezegun import freeze_time

from billing.events.models import Event
from billing.ledger.models import UsageRecord
from routing.health.checks import KEPT_CHECKS, credential_look_into, profiles_check
from routing.health.state import FAILURES_IN_A_ROW, Kind, RouteHealth, Seen, Standing
from routing.health.store import HEALTH_KEY, decode_record, encode_record
from routing.models import AiModel, HealthCheck, ModelProfile, Provider, ProviderCredential
from routing.tasks import check_health
from tests.fakes.company import Company, company_open

pytestmark = pytest.mark.django_db

NOW_MS = 1_800_000_000_000


@pytest.fixture
def company() -> Iterator[Company]:
    with company_open(good_keys=None) as company:
        yield company


@pytest.fixture(autouse=True)
def shared() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.delete(HEALTH_KEY)
        yield client
        client.delete(HEALTH_KEY)


@pytest.fixture
def credential(company: Company) -> ProviderCredential:
    """A key at a company with two models."""
    provider = Provider.objects.create(slug="acme", name="Acme", protocol="openai", base_url=company.url)
    for name in ("one", "two"):
        model = AiModel.objects.create(name=name)
        ModelProfile.objects.create(slug=f"acme/{name}", provider=provider, model=model, upstream_model=name)
    return ProviderCredential.objects.create(provider=provider, label="main", secret="sk-main")


def state_of(shared: redis.Redis, route: str = "acme/one") -> RouteHealth:
    return decode_record(shared.hget(HEALTH_KEY, route) or b"")  # type: ignore[arg-type]


def open_breaker(shared: redis.Redis, at_ms: int) -> None:
    state = RouteHealth()
    for _ in range(FAILURES_IN_A_ROW):
        state.apply(Seen(Kind.FAILED, at_ms, detail="overloaded"))
    shared.hset(HEALTH_KEY, "acme/one", encode_record(state))


def test_one_list_of_models_checks_all_profiles_and_costs_nothing(company: Company, credential: ProviderCredential) -> None:
    results = profiles_check()

    assert [(r.route, r.ok, r.answered) for r in results] == [("acme/one", True, False), ("acme/two", True, False)]
    assert [(call.method, call.key) for call in company.calls] == [("GET", "sk-main")]
    assert list(HealthCheck.objects.values_list("ok", "failure").order_by("profile__slug")) == [(True, "")] * 2
    assert UsageRecord.objects.count() == 0


def test_a_provider_out_of_reach_fails_its_checks(
    company: Company, credential: ProviderCredential, shared: redis.Redis
) -> None:
    company.statuses["sk-main"] = 503

    results = profiles_check(["acme/one"])

    assert [(r.route, r.ok, r.failure) for r in results] == [("acme/one", False, "overloaded")]
    assert HealthCheck.objects.get().failure == "overloaded"
    assert (state_of(shared).failures_in_a_row, state_of(shared).last_failure) == (1, "overloaded")


def test_checks_that_fail_again_and_again_open_the_breaker(
    company: Company, credential: ProviderCredential, shared: redis.Redis
) -> None:
    company.statuses["sk-main"] = 500

    for _ in range(FAILURES_IN_A_ROW):
        profiles_check(["acme/one"])

    assert state_of(shared).opened is True
    event = Event.objects.get(kind="model_profile.breaker_opened")
    assert (event.after["route"], event.actor_kind) == ("acme/one", "system")


def test_a_list_of_models_makes_an_open_breaker_try_again(credential: ProviderCredential, shared: redis.Redis) -> None:
    with freeze_time("2027-01-15", real_asyncio=True) as frozen:
        now_ms = round(frozen().timestamp() * 1000)
        open_breaker(shared, now_ms)

        profiles_check(["acme/one"])

    state = state_of(shared)
    assert (state.opened, state.standing(now_ms)) == (True, Standing.HALF_OPEN)


@pytest.mark.parametrize("status", [404, 429])
def test_who_has_no_list_or_wants_less_is_there(
    company: Company, credential: ProviderCredential, shared: redis.Redis, status: int
) -> None:
    company.statuses["sk-main"] = status

    [result] = profiles_check(["acme/one"])

    assert result.ok is True
    assert state_of(shared).failures_in_a_row == 0


def test_only_the_latest_checks_of_a_profile_stay(credential: ProviderCredential) -> None:
    for _ in range(KEPT_CHECKS + 3):
        profiles_check(["acme/one"])
    profiles_check(["acme/two"])

    counts = {slug: HealthCheck.objects.filter(profile__slug=slug).count() for slug in ("acme/one", "acme/two")}
    assert counts == {"acme/one": KEPT_CHECKS, "acme/two": 1}


def test_draining_routes_are_checked_and_disabled_ones_are_not(company: Company, credential: ProviderCredential) -> None:
    ModelProfile.objects.filter(slug="acme/one").update(draining=True)
    ModelProfile.objects.filter(slug="acme/two").update(enabled=False)

    assert check_health() == 1
    assert HealthCheck.objects.get().profile.slug == "acme/one"


def test_a_key_that_is_refused_in_a_check_and_in_a_call_is_disabled(company: Company, credential: ProviderCredential) -> None:
    company.statuses["sk-main"] = 401

    profiles_check(["acme/one"])

    credential.refresh_from_db()
    assert (credential.enabled, credential.disabled_reason) == (False, "The provider refused it.")
    assert [call.method for call in company.calls] == ["GET", "POST"]


def test_a_key_that_passes_a_call_stays(company: Company, credential: ProviderCredential) -> None:
    disabled = credential_look_into(credential.pk, "auth")

    credential.refresh_from_db()
    assert (disabled, credential.enabled) == (False, True)


def test_an_empty_account_is_disabled_without_asking_again(company: Company, credential: ProviderCredential) -> None:
    disabled = credential_look_into(credential.pk, "no_funds")
    again = credential_look_into(credential.pk, "no_funds")

    credential.refresh_from_db()
    assert (disabled, again, company.calls) == (True, False, [])
    assert credential.disabled_reason == "The account there is empty."
