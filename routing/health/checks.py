"""Health checks: what routes are asked every few minutes, and whenever an operator wants to know.

A real provider is asked for its list of models, which costs nothing and proves that it can be reached with our key; the
simulator for a few tokens, which costs nothing there and measures as a call does. No customer is billed, nothing is booked.
What a check sees goes to all processes: a failure counts as a call's, a list of models makes an open breaker try again.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from django.db.models import Window
from django.db.models.functions import RowNumber
from redis.exceptions import RedisError

from billing.events.services import SYSTEM
from iafactory.common import clock
from iafactory.common.async_redis import open_redis
from routing.credentials import credential_disable, credential_test
from routing.models import HealthCheck, ModelProfile, ProviderCredential
from routing.providers.base import FailureClass, ProviderError, Target
from routing.providers.exchange import refusal
from routing.providers.failures import network_failure
from routing.providers.registry import adapter_for, speaks
from routing.providers.session import ProviderSession, open_session
from routing.snapshot import Credential, Route, snapshot_load

from .reports import breaker_event
from .state import Kind, Seen
from .store import HealthStore, Moved

CHECK_SECONDS = 10
AT_ONCE = 8
OUTPUT_TOKENS = 4
# Checks of one profile that are kept: four hours of them.
KEPT_CHECKS = 48

_CHAT = "chat"
# How each protocol wants its key for the list of models.
_KEY_HEADERS = {
    "anthropic": "x-api-key",
    "gemini": "x-goog-api-key",
    "elevenlabs": "xi-api-key",
}
_OF_THE_CREDENTIAL = frozenset({FailureClass.AUTH, FailureClass.NO_FUNDS})
_NOT_OF_THE_ROUTE = frozenset({FailureClass.BAD_REQUEST, FailureClass.REFUSED, FailureClass.RATE_LIMITED})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one route did. `answered`: it made tokens, rather than only listing its models. Times in milliseconds."""

    route: str
    ok: bool
    answered: bool = False
    latency_ms: int | None = None
    failure: FailureClass | None = None
    detail: str = ""
    credential: str = ""


def profiles_check(slugs: Iterable[str] | None = None) -> list[CheckResult]:
    """Check the routes of these profiles, all in use by default; tell the processes, write rows, and forget old ones.

    Draining ones are checked too. No database connection is used while providers are asked.
    """
    wanted = None if slugs is None else set(slugs)
    routes = [
        (model.mode, route)
        for model in snapshot_load().models.values()
        for route in model.routes
        if wanted is None or route.slug in wanted
    ]
    results, moved = asyncio.run(_check(routes))
    for move in moved:
        breaker_event(move.route, move.state, actor=SYSTEM)
    _checks_write(results)
    refused = {r.credential: r.failure for r in results if r.failure in _OF_THE_CREDENTIAL and r.credential}
    for credential, failure in refused.items():
        credential_look_into(UUID(credential), str(failure))
    return results


def credential_look_into(credential_id: UUID, failure: str) -> bool:
    """Take out of use a credential that a provider refused; true when it was. A key that passes a real call stays."""
    try:
        credential = ProviderCredential.objects.defer("secret").get(pk=credential_id)
    except ProviderCredential.DoesNotExist:
        return False
    if not credential.enabled:
        return False
    if failure == FailureClass.AUTH:
        probe = credential_test(credential_id, SYSTEM)
        if probe.failure not in (FailureClass.AUTH, FailureClass.NO_FUNDS):
            return False
        failure = probe.failure.value
    reason = "The account there is empty." if failure == FailureClass.NO_FUNDS else "The provider refused it."
    credential_disable(credential_id, reason, SYSTEM)
    return True


async def _check(routes: Sequence[tuple[str, Route]]) -> tuple[list[CheckResult], list[Moved]]:
    lists: dict[tuple[str, str], asyncio.Task[CheckResult]] = {}
    limit = asyncio.Semaphore(AT_ONCE)
    async with open_session() as session:

        async def one(mode: str, route: Route) -> CheckResult:
            if route.simulated and mode == _CHAT and speaks(route.protocol, _CHAT):
                async with limit:
                    return await _ask(session, route)
            # One list serves all profiles of a provider.
            key = (route.base_url, route.credentials[0].id)
            if key not in lists:
                lists[key] = asyncio.create_task(_list(session, route, limit))
            return replace(await lists[key], route=route.slug)

        results = list(await asyncio.gather(*(one(mode, route) for mode, route in routes)))
    redis = open_redis(connections=4)
    try:
        moved = await HealthStore(redis).observe(_seen(results))
    except (RedisError, OSError):
        moved = []
    finally:
        await redis.aclose()
    return results, moved


def _seen(results: Sequence[CheckResult]) -> Mapping[str, Sequence[Seen]]:
    now_ms = clock.now_ms()
    seen: dict[str, list[Seen]] = {}
    for result in results:
        if result.answered:
            seen[result.route] = [Seen(Kind.REACHABLE, now_ms), Seen(Kind.CHECKED, now_ms, result.latency_ms)]
        elif result.ok:
            seen[result.route] = [Seen(Kind.REACHABLE, now_ms)]
        elif result.failure is not None and result.failure not in _OF_THE_CREDENTIAL:
            seen[result.route] = [Seen(Kind.FAILED, now_ms, detail=result.failure.value)]
    return seen


async def _ask(session: ProviderSession, route: Route) -> CheckResult:
    """A call of a few tokens."""
    request = {"messages": [{"role": "user", "content": "ping"}], "max_tokens": OUTPUT_TOKENS}
    began = time.monotonic()
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await adapter_for(route.protocol).chat(session, _target(route, route.credentials[0]), request)
    except ProviderError as error:
        return _failed(route, error)
    except TimeoutError as error:
        return _failed(route, network_failure(error))
    return CheckResult(route.slug, ok=True, answered=True, latency_ms=_since(began))


async def _list(session: ProviderSession, route: Route, limit: asyncio.Semaphore) -> CheckResult:
    """The provider's list of models, or the answer that there is none: reachable, with a key that is taken, all the same."""
    target = _target(route, route.credentials[0])
    base_url = target.base_url.rstrip("/")
    headers = {"Authorization": f"Bearer {target.secret}"}
    if route.protocol == "anthropic":
        base_url = base_url.removesuffix("/v1") + "/v1"
        headers = {"anthropic-version": "2023-06-01"}
    if name := _KEY_HEADERS.get(route.protocol):
        headers.pop("Authorization", None)
        headers[name] = target.secret
    began = time.monotonic()
    try:
        async with limit, asyncio.timeout(CHECK_SECONDS):
            response = await session.send("GET", base_url + "/models", headers=headers, connect_seconds=CHECK_SECONDS)
            try:
                if response.status not in (200, 404, 405):
                    raise await refusal(response, target)
            finally:
                response.close()
    except ProviderError as error:
        return _failed(route, error)
    except (TimeoutError, OSError) as error:
        return _failed(route, network_failure(error))
    return CheckResult(route.slug, ok=True, latency_ms=_since(began))


def _failed(route: Route, error: ProviderError) -> CheckResult:
    # A provider that says "slower" or "wrong" is there.
    return CheckResult(
        route.slug,
        ok=error.failure in _NOT_OF_THE_ROUTE,
        failure=error.failure,
        detail=(error.detail or error.message)[:500],
        credential=route.credentials[0].id,
    )


def _target(route: Route, credential: Credential) -> Target:
    return Target(
        provider=route.provider,
        base_url=route.base_url,
        secret=credential.secret,
        upstream_model=route.upstream_model,
        public_model=route.model,
        connect_timeout_seconds=min(route.connect_timeout_seconds, CHECK_SECONDS),
        first_byte_timeout_seconds=CHECK_SECONDS,
        quirks=route.quirks,
    )


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)


def _checks_write(results: Sequence[CheckResult]) -> None:
    """One row per check; of each profile only the latest stay."""
    profiles = dict(ModelProfile.objects.filter(slug__in=[r.route for r in results]).values_list("slug", "pk"))
    now = clock.now()
    HealthCheck.objects.bulk_create(
        HealthCheck(
            profile_id=profiles[result.route],
            checked_at=now,
            ok=result.ok,
            latency_ms=result.latency_ms,
            failure=result.failure.value if result.failure else "",
            detail=result.detail,
        )
        for result in results
        if result.route in profiles
    )
    age = Window(RowNumber(), partition_by="profile_id", order_by=["-checked_at", "-id"])
    old = HealthCheck.objects.filter(profile_id__in=profiles.values()).annotate(age=age).filter(age__gt=KEPT_CHECKS)
    HealthCheck.objects.filter(pk__in=list(old.values_list("pk", flat=True))).delete()
