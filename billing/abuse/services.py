"""What operators do about abuse: warn, slow down, ban, and keep networks out.

Each deed writes its event with the reason, and closes the open signals of the account and its keys as acted on, in one
transaction. Each may be repeated.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from billing.accounts.models import Account, AccountLimits, ApiKey
from billing.accounts.services import account_block, account_limits_set, account_unblock, owners_mail_send, task_enqueue
from billing.events.models import Event
from billing.events.services import Actor, event_record
from iafactory.common.errors import ApiError
from ratelimit.blocks import network_block, network_normalise, network_unblock
from ratelimit.models import AbuseSignal, NetworkBlock
from ratelimit.signals import signal_close


def account_subjects(account: Account) -> list[str]:
    """What signals about an account and its keys are called."""
    keys = ApiKey.objects.filter(account=account).values_list("pk", flat=True)
    return [f"account:{account.pk}", *(f"key:{key}" for key in keys)]


def _acted(account: Account, reason: str) -> list[UUID]:
    return signal_close(subjects=account_subjects(account), state=AbuseSignal.State.ACTED, reason=reason)


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise ApiError(400, "invalid_request", "Say why.", param="reason")


def account_warn(*, account: Account, actor: Actor, reason: str, message: str) -> Event:
    """Have `message` mailed to the account's owners once the transaction commits. `reason` stays with us.

    Raises ApiError 400 `invalid_request` without a reason or a message.
    """
    _require_reason(reason)
    if not message.strip():
        raise ApiError(400, "invalid_request", "Say what the customer shall read.", param="message")
    with transaction.atomic():
        event = event_record(
            kind="account.warned",
            object_type="account",
            object_id=account.pk,
            account_id=account.pk,
            actor=actor,
            after={"message": message.strip()},
            reason=reason,
        )
        _acted(account, f"warned: {reason}")
        event_id = str(event.pk)
        transaction.on_commit(lambda: task_enqueue("billing.abuse.warning_send", event_id))
    return event


def warning_send(*, event_id: UUID | str) -> int:
    """Mail a warning to the account's owners; how many. Raises what the mail backend raises."""
    event = Event.objects.get(pk=event_id, kind="account.warned")
    account = Account.objects.get(pk=event.object_id)
    return owners_mail_send(account=account, template="abuse_warning", context={"message": event.after["message"]})


def account_slow_down(
    *, account: Account, actor: Actor, reason: str, until: datetime | None = None, **limits: Any
) -> AccountLimits:
    """Put `limits` (`ACCOUNT_LIMITS` of `billing.accounts.services`) in the place of the plan's, until an instant or for good.

    Raises ApiError 400 `invalid_request` without a reason or without a limit, TypeError for an unknown limit.
    """
    _require_reason(reason)
    with transaction.atomic():
        row = account_limits_set(account=account, actor=actor, reason=reason, until=until, **limits)
        if row is None:
            raise ApiError(400, "invalid_request", "Set at least one limit.", param="requests_per_minute")
        _acted(account, f"slowed down: {reason}")
    return row


def account_ban(*, account: Account, actor: Actor, reason: str, until: datetime | None = None) -> Account:
    """Block the account until an instant, or for good; its keys and sessions stop calling models within a second.

    The same again writes nothing. Raises ApiError 400 `invalid_request` without a reason or with an end that has passed, 409
    `account_closed`.
    """
    _require_reason(reason)
    with transaction.atomic():
        account = account_block(account=account, reason=reason, actor=actor, until=until)
        _acted(account, f"banned: {reason}")
    return account


def account_unban(*, account: Account, actor: Actor, reason: str) -> Account:
    """Let a banned account work again; the same again writes nothing. Raises as `account_ban`."""
    _require_reason(reason)
    return account_unblock(account=account, reason=reason, actor=actor)


def signals_dismiss(*, signals: list[AbuseSignal], actor: Actor, reason: str) -> int:
    """Close open signals as no abuse, each with an event; how many. They stay quiet until their `until`.

    Raises ApiError 400 `invalid_request` without a reason.
    """
    _require_reason(reason)
    dismissed = 0
    with transaction.atomic():
        for signal in signals:
            closed = signal_close(
                subjects=[signal.subject], signal=signal.signal, state=AbuseSignal.State.DISMISSED, reason=reason
            )
            for signal_id in closed:
                event_record(
                    kind="abuse_signal.dismissed",
                    object_type="abuse_signal",
                    object_id=signal_id,
                    account_id=account_id_of_subject(signal.subject),
                    actor=actor,
                    before={"subject": signal.subject, "signal": signal.signal, "evidence": signal.evidence},
                    reason=reason,
                )
            dismissed += len(closed)
    return dismissed


def account_id_of_subject(subject: str) -> UUID | None:
    """The account that a signal is about, None for an address and for what is gone."""
    kind, _, identifier = subject.partition(":")
    try:
        found = UUID(identifier)
    except ValueError:
        return None
    if kind == "account":
        return found
    return ApiKey.objects.filter(pk=found).values_list("account_id", flat=True).first() if kind == "key" else None


def network_ban(*, network: str, actor: Actor, reason: str, expires_at: datetime | None = None) -> NetworkBlock:
    """Refuse a network on every path within a second, until an instant or until removed. Again changes reason and end.

    Raises ValueError for what is no network, ApiError 400 `invalid_request` without a reason.
    """
    _require_reason(reason)
    with transaction.atomic():
        known = NetworkBlock.objects.select_for_update().filter(network=network_normalise(network)).first()
        before = _block_told(known)
        row = network_block(network=network, reason=reason, expires_at=expires_at, actor_label=actor.label)
        if (after := _block_told(row)) != before:
            _block_event("network_block.changed" if known else "network_block.created", row, actor, before, after, reason)
    return row


def network_unban(*, block: NetworkBlock, actor: Actor, reason: str = "") -> bool:
    """Let a network in again; False when it was not kept out."""
    with transaction.atomic():
        removed = network_unblock(network=block.network)
        if removed:
            _block_event("network_block.deleted", block, actor, _block_told(block), {}, reason)
    return removed


def _block_told(row: NetworkBlock | None) -> dict[str, Any]:
    if row is None:
        return {}
    expires_at = row.expires_at.isoformat() if row.expires_at else None
    return {"network": row.network, "reason": row.reason, "expires_at": expires_at}


def _block_event(
    kind: str, row: NetworkBlock, actor: Actor, before: dict[str, Any], after: dict[str, Any], reason: str
) -> None:
    event_record(
        kind=kind, object_type="network_block", object_id=row.pk, actor=actor, before=before, after=after, reason=reason
    )
