"""Providers, routes, credentials, and the certificate of the public address."""

import socket
import ssl
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from cryptography import x509
from django.conf import settings
from django.db.models import OuterRef, Subquery

from billing.events.models import Event
from billing.events.reasons import reason_said
from iafactory.common.admin import change_url, list_url
from iafactory.common.texts import Text
from routing.health.services import health_read
from routing.health.state import Standing
from routing.models import HealthCheck, ModelProfile, Provider, ProviderCredential

from ..models import Level
from .base import Finding, Thresholds

HANDSHAKE_SECONDS = 10


def _routes_in_use() -> list[tuple[int, str, str]]:
    """Profile id, slug and provider of everything that calls may be sent to; with real providers only those with a key."""
    profiles = ModelProfile.objects.filter(enabled=True, draining=False, provider__enabled=True, provider__draining=False)
    if not settings.SIMULATOR_URL:
        profiles = profiles.filter(provider__in=ProviderCredential.objects.filter(enabled=True).order_by().values("provider"))
    return list(profiles.order_by("provider__slug", "slug").values_list("pk", "slug", "provider__slug"))


def breakers_open(thresholds: Thresholds, now: datetime) -> list[Finding] | None:
    """Routes whose breaker opened by itself and has not closed for a while."""
    health = health_read()
    if health is None:
        return None
    now_ms = round(now.timestamp() * 1000)
    longest_ms = thresholds["minutes"] * 60_000
    found = []
    for profile, slug, _provider in _routes_in_use():
        state = health.get(slug)
        if state is None or not state.opened or state.by_operator or now_ms - state.changed_at_ms < longest_ms:
            continue
        since = datetime.fromtimestamp(state.changed_at_ms / 1000, UTC)
        found.append(
            Finding(
                subject=slug,
                title=Text("Breaker of %(route)s is open", route=slug),
                text=Text(
                    "Open since %(since)s UTC: %(reason)s. It is tried again by itself.",
                    since=f"{since:%Y-%m-%d %H:%M}",
                    reason=reason_said(state.reason) if state.reason else "?",
                ),
                figures={"openings": state.openings, "last_failure": state.last_failure},
                link=change_url("routing.profilehealth", profile),
            )
        )
    return found


def providers_down(thresholds: Thresholds, now: datetime) -> list[Finding] | None:
    """Providers none of whose routes works: breaker open, or the last checks failed."""
    health = health_read()
    if health is None:
        return None
    now_ms = round(now.timestamp() * 1000)
    routes: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for profile, slug, provider in _routes_in_use():
        routes[provider].append((profile, slug))
    failing = _failing_checks([profile for known in routes.values() for profile, _slug in known], thresholds["checks"])
    ids = dict(Provider.objects.values_list("slug", "pk"))
    found = []
    for provider, known in routes.items():
        bad = [
            slug
            for profile, slug in known
            if profile in failing
            or ((state := health.get(slug)) and not state.by_operator and state.standing(now_ms) is not Standing.CLOSED)
        ]
        if len(bad) < len(known):
            continue
        found.append(
            Finding(
                subject=provider,
                title=Text("Provider %(provider)s is down", provider=provider),
                text=Text(
                    "Its only route does not work: the breaker is open, or the last checks failed.",
                    "None of its %(count)s routes works: breakers are open, or the last checks failed.",
                    count=len(known),
                ),
                figures={"routes": bad[:20]},
                link=change_url("routing.provider", ids[provider]),
            )
        )
    return found


def _failing_checks(profiles: list[int], times: int) -> set[int]:
    """Profiles whose last `times` checks all failed, for what is not the credential's fault alone."""
    latest = HealthCheck.objects.filter(profile=OuterRef("profile")).order_by("-checked_at").values("pk")[:times]
    results: defaultdict[int, list[bool]] = defaultdict(list)
    for profile, ok in HealthCheck.objects.filter(profile__in=profiles, pk__in=Subquery(latest)).values_list("profile", "ok"):
        results[profile].append(ok)
    return {profile for profile, known in results.items() if len(known) >= times and not any(known)}


def credentials(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Keys that a provider refused or whose last test failed, and nobody replaced."""
    rows = ProviderCredential.objects.filter(provider__enabled=True).select_related("provider").defer("secret")
    known = list(rows.order_by("created_at"))
    off = {str(credential.pk) for credential in known if not credential.enabled}
    by_system = set(
        Event.objects.filter(
            kind="provider_credential.disabled",
            object_type="provider_credential",
            object_id__in=off,
            actor_kind=Event.ActorKind.SYSTEM,
        ).values_list("object_id", flat=True)
    )
    found = []
    for credential in known:
        if credential.enabled:
            trouble = credential.test_result
        else:
            replaced = any(
                other.enabled
                and other.provider_id == credential.provider_id
                and credential.disabled_at is not None
                and other.created_at > credential.disabled_at
                for other in known
            )
            trouble = credential.disabled_reason if str(credential.pk) in by_system and not replaced else ""
        if not trouble:
            continue
        left = sum(other.enabled for other in known if other.provider_id == credential.provider_id)
        found.append(
            Finding(
                subject=str(credential.pk),
                title=Text(
                    "Credential %(name)s of %(provider)s does not work",
                    name=credential.label,
                    provider=credential.provider.slug,
                ),
                text=[Text("Credentials of the provider still in use: %(left)s.", left=left), reason_said(trouble)],
                level=None if left else Level.CRITICAL,
                step=0 if left else 1,
                figures={"enabled": credential.enabled, "left": left},
                link=change_url("routing.providercredential", credential.pk),
            )
        )
    return found


def certificate(thresholds: Thresholds, now: datetime) -> list[Finding] | None:
    """The certificate of PUBLIC_URL as its visitors see it: about to end, or not valid."""
    address = urlsplit(settings.PUBLIC_URL)
    if address.scheme != "https" or not address.hostname:
        return []
    try:
        ends = certificate_end(address.hostname, address.port or 443)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or type(error).__name__
        return [_certificate_trouble(address.hostname, Text(str(reason)), Level.CRITICAL, 2, {})]
    except OSError:
        # Whether the product can be reached is for those outside to say.
        return None
    days = (ends - now) // timedelta(days=1)
    if days >= thresholds["days"]:
        return []
    text = Text(
        "It ends on %(day)s, in %(days)s day.",
        "It ends on %(day)s, in %(days)s days.",
        days=days,
        day=f"{ends:%Y-%m-%d %H:%M} UTC",
    )
    return [_certificate_trouble(address.hostname, text, None, 1, {"days": days})]


def _certificate_trouble(host: str, text: Text, level: Level | None, step: int, figures: dict[str, int]) -> Finding:
    title = Text("Certificate of %(host)s", host=host)
    return Finding(
        subject=host, title=title, text=text, level=level, step=step, figures=figures, link=list_url("dashboard.alert")
    )


def certificate_end(host: str, port: int) -> datetime:
    """When the certificate that `host` shows ends. Raises `ssl.SSLError` for an invalid one, `OSError` without an answer."""
    with (
        socket.create_connection((host, port), timeout=HANDSHAKE_SECONDS) as plain,
        ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).not_valid_after_utc
