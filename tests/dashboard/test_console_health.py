"""Routes' health in the console: what is shown of it, and what operators do about it."""

import os
from collections.abc import Iterator

import pytest
import redis
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from billing.accounts.models import User
from billing.events.models import Event
from billing.ledger.models import UsageRecord
from iafactory.common import clock
from routing.health.state import FAILURES_IN_A_ROW, Kind, RouteHealth, Seen
from routing.health.store import HEALTH_KEY, decode_record, encode_record
from routing.models import AiModel, HealthCheck, ModelProfile, Provider

pytestmark = pytest.mark.django_db

PAGE = reverse("admin:routing_profilehealth_changelist")


@pytest.fixture(autouse=True)
def shared() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.delete(HEALTH_KEY)
        yield client
        client.delete(HEALTH_KEY)


@pytest.fixture
def profile() -> ModelProfile:
    provider = Provider.objects.create(slug="acme", name="Acme", protocol="openai", base_url="http://127.0.0.1:1/v1")
    model = AiModel.objects.create(name="m")
    return ModelProfile.objects.create(slug="acme/m", provider=provider, model=model, upstream_model="m")


def saw(shared: redis.Redis, *items: Seen) -> None:
    state = RouteHealth()
    for item in items:
        state.apply(item)
    shared.hset(HEALTH_KEY, "acme/m", encode_record(state))


def state_of(shared: redis.Redis) -> RouteHealth:
    return decode_record(shared.hget(HEALTH_KEY, "acme/m") or b"")  # type: ignore[arg-type]


def do(console: Client, action: str, profile: ModelProfile) -> str:
    answer = console.post(PAGE, {"action": action, "_selected_action": [profile.pk]}, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def events() -> list[str]:
    return list(Event.objects.filter(object_type="model_profile").order_by("at").values_list("kind", flat=True))


def test_a_page_shows_what_all_processes_know(console: Client, shared: redis.Redis, profile: ModelProfile) -> None:
    now_ms = clock.now_ms()
    answers = [Seen(Kind.ANSWERED, now_ms, 200.0)] * 50
    saw(shared, *answers, *[Seen(Kind.FAILED, now_ms, detail="overloaded")] * FAILURES_IN_A_ROW)
    HealthCheck.objects.create(profile=profile, ok=False, failure="overloaded")

    lists = console.get(PAGE).content.decode()
    page = console.get(reverse("admin:routing_profilehealth_change", args=[profile.pk])).content.decode()

    for shown in (lists, page):
        assert "tries again" in shown
        assert "208" in shown
        assert "9 %" in shown
    assert 'class="state state-failed">overloaded' in lists


def test_what_was_not_measured_is_typical(console: Client, profile: ModelProfile) -> None:
    shown = console.get(PAGE).content.decode()

    assert "closed" in shown
    assert "1,000" in shown
    assert "typical" in shown


def test_an_operator_opens_and_closes_a_breaker(console: Client, shared: redis.Redis, profile: ModelProfile) -> None:
    do(console, "open_breaker", profile)
    opened = state_of(shared)
    do(console, "close_breaker", profile)

    assert (opened.opened, opened.by_operator) == (True, True)
    assert state_of(shared).opened is False
    assert events() == ["model_profile.breaker_opened", "model_profile.breaker_closed"]
    assert set(Event.objects.filter(object_type="model_profile").values_list("actor_kind", flat=True)) == {"operator"}


def test_forgetting_learns_anew(console: Client, shared: redis.Redis, profile: ModelProfile) -> None:
    saw(shared, *[Seen(Kind.FAILED, clock.now_ms(), detail="overloaded")] * FAILURES_IN_A_ROW)

    do(console, "forget", profile)

    assert shared.hget(HEALTH_KEY, "acme/m") is None
    assert events() == ["model_profile.health_forgotten"]


def test_draining_and_back_is_told_once_each(console: Client, profile: ModelProfile) -> None:
    do(console, "drain", profile)
    do(console, "drain", profile)
    profile.refresh_from_db()
    drained = profile.draining
    do(console, "undrain", profile)
    profile.refresh_from_db()

    assert (drained, profile.draining) == (True, False)
    assert events() == ["model_profile.drained", "model_profile.undrained"]


def test_who_may_only_look_does_nothing(client: Client, shared: redis.Redis, profile: ModelProfile) -> None:
    user = User.objects.create_user(email="looks@example.com", password="correct horse battery", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_profilehealth"))
    client.force_login(user)

    page = client.get(PAGE)
    client.post(PAGE, {"action": "open_breaker", "_selected_action": [profile.pk]}, follow=True)

    assert page.status_code == 200
    assert "Open the breaker" not in page.content.decode()
    assert (state_of(shared).opened, events()) == (False, [])


def test_a_usage_row_says_why_this_route() -> None:
    usage = UsageRecord(
        started_at=clock.now(),
        finished_at=clock.now(),
        endpoint="/v1/chat/completions",
        end="complete",
        profile="acme/m",
        choice={
            "by": "split",
            "drawn": {"provider": "acme", "position": 7, "weights": {"acme": 85, "other": 15}},
            "candidates": [{"route": "acme/m", "score": "3.5", "latency_ms": 212, "capacity": "1", "cost": "0.002"}],
            "left_out": {"other/m": "breaker open: overloaded"},
            "tried": {},
        },
    )

    shown = admin.site._registry[UsageRecord].why(usage)  # type: ignore[attr-defined]

    assert "position 7 fell to acme" in shown
    assert '<td class="figure">212</td>' in shown
    assert "breaker open: overloaded" in shown
    assert "served" in shown
