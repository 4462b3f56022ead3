"""What operators do about routes: open and close breakers, forget what was seen, let routes run dry."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from django.db import transaction
from redis.exceptions import RedisError

from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.async_redis import open_redis
from iafactory.common.errors import ApiError
from routing.models import ModelProfile

from .reports import breaker_event
from .state import Kind, RouteHealth, Seen
from .store import HealthStore, decode_record

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def health_read() -> dict[str, RouteHealth] | None:
    """What all processes know of the routes, by slug; None while Redis is away."""
    try:
        records = _with_store(lambda store: store.fetch())
    except ApiError:
        return None
    return {route: decode_record(record) for route, record in records.items()}


def breaker_open(slug: str, *, actor: Actor, reason: str = "") -> None:
    """Send nobody to a route until an operator closes its breaker. In force within a second. Raises `ApiError` 503."""
    _breaker_set(slug, Kind.OPENED, actor, reason or "by an operator")


def breaker_close(slug: str, *, actor: Actor, reason: str = "") -> None:
    """Let calls through again, whatever opened the breaker; credentials that rest may be used. Raises `ApiError` 503."""
    _breaker_set(slug, Kind.CLOSED, actor, reason or "by an operator")


def health_forget(slug: str, *, actor: Actor) -> None:
    """Learn everything about a route anew: breaker, latency, errors. Raises `ApiError` 503."""
    _with_store(lambda store: store.forget(slug))
    profile = ModelProfile.objects.get(slug=slug)
    with transaction.atomic():
        event_record(kind="model_profile.health_forgotten", object_type="model_profile", object_id=profile.pk, actor=actor)


def profile_drain(slug: str, *, draining: bool, actor: Actor) -> None:
    """Send no new calls to a profile, or send them again; those under way end by themselves. Again is the same."""
    with transaction.atomic():
        profile = ModelProfile.objects.select_for_update(no_key=True).get(slug=slug)
        if profile.draining == draining:
            return
        profile.draining = draining
        profile.save(update_fields=["draining", "updated_at"])
        event_record(
            kind="model_profile.drained" if draining else "model_profile.undrained",
            object_type="model_profile",
            object_id=profile.pk,
            actor=actor,
            before={"draining": not draining},
            after={"draining": draining},
        )


def _breaker_set(slug: str, kind: Kind, actor: Actor, reason: str) -> None:
    seen = Seen(kind, clock.now_ms(), detail=reason)

    async def observe(store: HealthStore) -> RouteHealth:
        await store.observe({slug: [seen]})
        return decode_record(await store.fetch_one(slug))

    state = _with_store(observe)
    breaker_event(slug, state, actor=actor, reason=reason)


def _with_store(ask: Callable[[HealthStore], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        redis = open_redis(connections=2)
        try:
            return await ask(HealthStore(redis))
        finally:
            await redis.aclose()

    try:
        return asyncio.run(run())
    except (RedisError, OSError) as error:
        logger.warning("routes' health could not be reached: %s", error)
        raise ApiError(503, "health_unavailable", "Redis does not answer; nothing was changed.") from None
