"""Our keys at providers: stored encrypted, tried by a real call before they are relied on, switched off with a reason.

Each function writes its event; no event, error or log carries a secret. Web processes hear of every change within a second.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from cryptography.fernet import InvalidToken
from django.db import transaction

from billing.events.reasons import reason_said
from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .models import AiModel, ModelProfile, Provider, ProviderCredential, model_price_at
from .providers.base import FailureClass, ProviderError, Target
from .providers.registry import adapter_for, media_adapter_for, speaks
from .providers.session import open_session

logger = logging.getLogger(__name__)

# A shorter secret would be given away by its end.
SHOW_LAST_FOUR_FROM = 12
# Enough for the models that refuse fewer.
PROBE_OUTPUT_TOKENS = 16
PROBE_TIMEOUT_SECONDS = 20
# What is asked, in the order of preference of modes.
PROBE_REQUESTS: dict[str, dict[str, Any]] = {
    AiModel.Mode.CHAT: {"messages": [{"role": "user", "content": "ping"}], "max_tokens": PROBE_OUTPUT_TOKENS},
    AiModel.Mode.EMBEDDING: {"input": "ping"},
    AiModel.Mode.SPEECH: {"input": "a", "voice": "alloy"},
}
_RESULT_LENGTH = 200
_LABEL_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Probe:
    """How a credential did in one cheap call. `detail` is for operators and never holds the secret."""

    passed: bool
    detail: str = ""
    profile: str = ""
    failure: FailureClass | None = None
    latency_ms: int | None = None


def credential_create(*, provider: Provider, label: str, secret: str, actor: Actor, priority: int = 100) -> ProviderCredential:
    """A further key of a provider, in use at once. Raises ApiError 409 `credential_label_taken`, 400 `invalid_request`."""
    _secret_check(secret)
    with transaction.atomic():
        Provider.objects.select_for_update(no_key=True).get(pk=provider.pk)
        if ProviderCredential.objects.filter(provider=provider, label=label).exists():
            raise ApiError(409, "credential_label_taken", "The provider has a credential of this name.", param="label")
        credential = _insert(provider=provider, label=label, secret=secret, priority=priority)
        _event("created", credential, actor, after={"provider": provider.slug, "label": label, "priority": priority})
    return credential


def credential_add(*, provider: Provider, label: str, secret: str, actor: Actor, reason: str = "") -> ProviderCredential:
    """A key that was tried just now, inside the caller's transaction. Raises as `credential_create`."""
    _secret_check(secret)
    if ProviderCredential.objects.filter(provider=provider, label=label).exists():
        raise ApiError(409, "credential_label_taken", "The provider has a credential of this name.", param="label")
    credential = _insert(provider=provider, label=label, secret=secret, priority=100, probe=Probe(True))
    after = {"provider": provider.slug, "label": label, "priority": credential.priority, "tested": True}
    _event("created", credential, actor, after=after, reason=reason)
    return credential


def credential_disable(credential_id: UUID, reason: str, actor: Actor) -> ProviderCredential:
    """Stop using a key at once, for this reason; again is the same and keeps the first reason."""
    with transaction.atomic():
        credential = _lock(credential_id)
        if credential.enabled:
            _switch_off(credential, reason)
            _event("disabled", credential, actor, before={"enabled": True}, after={"enabled": False}, reason=reason)
    return credential


def credential_enable(credential_id: UUID, actor: Actor, reason: str = "") -> ProviderCredential:
    """Use a key again; again is the same."""
    with transaction.atomic():
        credential = _lock(credential_id)
        if not credential.enabled:
            before = {"enabled": False, "disabled_reason": credential.disabled_reason}
            credential.enabled, credential.disabled_reason, credential.disabled_at = True, "", None
            credential.save(update_fields=["enabled", "disabled_reason", "disabled_at"])
            _event("enabled", credential, actor, before=before, after={"enabled": True}, reason=reason)
    return credential


def credential_test(credential_id: UUID, actor: Actor) -> Probe:
    """Make one cheap real call with a stored key and note how it went; it stays enabled or disabled as it was.

    No database connection is used meanwhile. Raises ProviderCredential.DoesNotExist.
    """
    credential = ProviderCredential.objects.select_related("provider").defer("secret").get(pk=credential_id)
    try:
        secret = credential.secret
    except InvalidToken:
        probe = Probe(False, "None of FIELD_ENCRYPTION_KEYS decrypts it.")
    else:
        probe = secret_probe(credential.provider, secret)
    with transaction.atomic():
        credential = _lock(credential_id)
        _note(credential, probe)
        credential.save(update_fields=["tested_at", "test_result"])
        _event("tested", credential, actor, after=_told(probe))
    return probe


def credential_rotate(
    credential_id: UUID, new_secret: str, actor: Actor, reason: str, *, untested: bool = False
) -> ProviderCredential:
    """Replace a key by another of the same name and priority, after a real call with it has succeeded.

    The old one stays, disabled, under a name that says until when it was used. `untested` skips the call. Answers the new one.
    Raises ApiError 409 `credential_test_failed` (nothing was changed), 400 `invalid_request`.
    """
    _secret_check(new_secret)
    old = ProviderCredential.objects.select_related("provider").defer("secret").get(pk=credential_id)
    probe = None
    if not untested:
        probe = secret_probe(old.provider, new_secret)
        if not probe.passed:
            raise ApiError(
                409,
                "credential_test_failed",
                Text("The new secret was tried and failed: %(detail)s", detail=reason_said(probe.detail)),
                param="secret",
            )
    with transaction.atomic():
        old = _lock(credential_id)
        label = old.label
        old.label = _retired_label(old)
        if old.enabled:
            _switch_off(old, f"rotated: {reason}")
        old.save(update_fields=["label"])
        new = _insert(provider=old.provider, label=label, secret=new_secret, priority=old.priority, probe=probe)
        after = {"replaced_by": str(new.pk), "tested": not untested}
        _event("rotated", old, actor, before={"label": label}, after=after, reason=reason)
        _event("created", new, actor, after={"provider": old.provider.slug, "label": label, "replaces": str(old.pk)})
    return new


def secret_probe(provider: Provider, secret: str) -> Probe:
    """One real call of a few tokens with `secret`, to the cheapest model of `provider`. Raises nothing; writes nothing.

    A chat model if it has one in use, else one of embeddings or speech: pictures, clips and recordings are too dear to try.
    """
    profile = next((found for mode in PROBE_REQUESTS if (found := _cheapest(provider, mode)) is not None), None)
    if profile is None:
        return Probe(False, "The provider has no model in use that is cheap enough to try it with.")
    target = Target(
        provider=provider.slug,
        base_url=provider.base_url,
        secret=secret,
        upstream_model=profile.upstream_model,
        public_model=profile.model.name,
        connect_timeout_seconds=provider.connect_timeout_seconds,
        first_byte_timeout_seconds=min(provider.first_byte_timeout_seconds, PROBE_TIMEOUT_SECONDS),
        # A whole answer may take as long as both together.
        read_timeout_seconds=1,
        quirks=frozenset(provider.quirks),
    )
    began = time.monotonic()
    try:
        async_to_sync(_ask)(provider.protocol, profile.model.mode, target)
    except ProviderError as error:
        # Adapters keep the key out of both.
        said = f"{error.failure}: {error.detail or error.message}"
        return Probe(False, said[:_RESULT_LENGTH], profile.slug, error.failure)
    except Exception as error:
        # The text of an unexpected error may quote what was sent.
        logger.error("a credential of %s could not be tried: %s", provider.slug, type(error).__name__)
        return Probe(False, f"{type(error).__name__}", profile.slug)
    return Probe(True, "", profile.slug, None, int((time.monotonic() - began) * 1000))


async def _ask(protocol: str, mode: str, target: Target) -> None:
    request = {"model": target.public_model, **PROBE_REQUESTS[mode]}
    async with open_session() as session:
        if mode == AiModel.Mode.CHAT:
            await adapter_for(protocol).chat(session, target, request)
        else:
            await media_adapter_for(protocol, mode).make(session, target, request)


def _cheapest(provider: Provider, mode: str) -> ModelProfile | None:
    """The profile of a mode in use with the lowest output price; without known prices any of them."""
    if not speaks(provider.protocol, mode):
        return None
    now = clock.now()
    profiles = ModelProfile.objects.filter(provider=provider, enabled=True, model__mode=mode)
    found = [profile for profile in profiles.select_related("model") if not _retired(profile, now)]

    def cost(profile: ModelProfile) -> tuple[bool, Any, str]:
        price = model_price_at(profile, now)
        known = price is not None and price.output_per_mtok is not None
        return (not known, price.output_per_mtok * profile.cost_factor if price and known else 0, profile.slug)  # type: ignore[operator]

    return min(found, key=cost, default=None)


def _retired(profile: ModelProfile, now: Any) -> bool:
    return profile.retires_on is not None and profile.retires_on <= now.date()


def _secret_check(secret: str) -> None:
    if not secret or secret != secret.strip() or any(ord(character) < 33 or ord(character) > 126 for character in secret):
        raise ApiError(400, "invalid_request", "A secret is printable ASCII without spaces.", param="secret")


def _insert(*, provider: Provider, label: str, secret: str, priority: int, probe: Probe | None = None) -> ProviderCredential:
    credential = ProviderCredential(
        provider=provider,
        label=label,
        secret=secret,
        last_four=secret[-4:] if len(secret) >= SHOW_LAST_FOUR_FROM else "",
        priority=priority,
    )
    if probe is not None:
        _note(credential, probe)
    credential.save(force_insert=True)
    return credential


def _retired_label(credential: ProviderCredential) -> str:
    """The name of a replaced key: its own with the instant, unique because rotations take a lock one after the other."""
    suffix = f" until {clock.now():%Y-%m-%d %H:%M:%S.%f}"
    return credential.label[: _LABEL_LENGTH - len(suffix)] + suffix


def _lock(credential_id: UUID) -> ProviderCredential:
    # Never loads the secret: one that no key decrypts must not be in the way.
    rows = ProviderCredential.objects.select_for_update(no_key=True, of=("self",)).select_related("provider").defer("secret")
    return rows.get(pk=credential_id)


def _switch_off(credential: ProviderCredential, reason: str) -> None:
    credential.enabled, credential.disabled_reason, credential.disabled_at = False, reason[:200], clock.now()
    credential.save(update_fields=["enabled", "disabled_reason", "disabled_at"])


def _note(credential: ProviderCredential, probe: Probe) -> None:
    credential.tested_at = clock.now()
    credential.test_result = "" if probe.passed else probe.detail[:_RESULT_LENGTH]


def _told(probe: Probe) -> dict[str, Any]:
    told = {"passed": probe.passed, "profile": probe.profile}
    return told | ({"latency_ms": probe.latency_ms} if probe.passed else {"detail": probe.detail})


def _event(
    what: str,
    credential: ProviderCredential,
    actor: Actor,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    event_record(
        kind=f"provider_credential.{what}",
        object_type="provider_credential",
        object_id=credential.pk,
        actor=actor,
        before=before,
        after=after,
        reason=reason,
    )
