"""What customers can be told: each entry is an `Event` that services write anyway, under a name and with fields meant for them.

Reasons, actors and request ids of an event are the operator's and are never part of a message.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from billing.events.models import Event

TEST = "webhook.test"


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of message. `kind` is the event it tells; `fields` are those of its before and after that customers see."""

    name: str
    kind: str
    description: str
    fields: frozenset[str]


_KEY = frozenset(
    {
        "name",
        "prefix",
        "scopes",
        "expires_at",
        "revoked_at",
        "replaced_by",
        "last_used_at",
        "requests_per_minute",
        "tokens_per_minute",
        "concurrent_calls",
        "daily_credits",
        "monthly_credits",
        "allowed_networks",
        "allowed_models",
        "allowed_endpoints",
        "allowed_origins",
    }
)
_SUBSCRIPTION = frozenset(
    {
        "plan",
        "price",
        "state",
        "current_period_start",
        "current_period_end",
        "cancel_at_period_end",
        "previous",
        "ended_at",
        "next_plan",
        "grace_until",
        "trial_ends_at",
    }
)
_PAYMENT = frozenset({"reference", "amount", "currency", "gateway", "method", "state", "failure", "received", "applied"})
_REFUND = frozenset({"reference", "payment", "amount", "currency", "state", "credits", "credit_note", "failure"})
_DISPUTE = frozenset({"dispute", "payment", "amount", "currency", "state", "debt"})
_INVOICE = frozenset({"number", "state", "currency", "total", "due", "means"})
_CREDITS = frozenset({"kind", "credits", "balance", "threshold", "previous_level"})
_EXPIRY = frozenset({"credits", "expires_at"})
_QUOTA = frozenset({"plan", "unit", "used", "limit", "resets_at"})
_BUDGET = frozenset({"window", "limit", "spent", "window_start", "name"})

_ENTRIES = (
    EventType("subscription.started", "subscription.started", "A subscription began.", _SUBSCRIPTION),
    EventType("subscription.trial_started", "subscription.trial_started", "A trial began.", _SUBSCRIPTION),
    EventType("subscription.renewed", "subscription.renewed", "The next period began.", _SUBSCRIPTION),
    EventType("subscription.change_scheduled", "subscription.change_scheduled", "It changes its plan later.", _SUBSCRIPTION),
    EventType("subscription.change_taken_back", "subscription.change_forgotten", "It keeps its plan after all.", _SUBSCRIPTION),
    EventType("subscription.cancel_scheduled", "subscription.cancel_scheduled", "It ends with its period.", _SUBSCRIPTION),
    EventType("subscription.cancel_taken_back", "subscription.cancel_taken_back", "It goes on after all.", _SUBSCRIPTION),
    EventType("subscription.trialing", "subscription.trialing", "A subscription is on trial.", _SUBSCRIPTION),
    EventType("subscription.active", "subscription.active", "A subscription became active.", _SUBSCRIPTION),
    EventType("subscription.past_due", "subscription.past_due", "A renewal was not paid in time.", _SUBSCRIPTION),
    EventType("subscription.paused", "subscription.paused", "A subscription was paused.", _SUBSCRIPTION),
    EventType("subscription.canceled", "subscription.canceled", "A subscription was ended.", _SUBSCRIPTION),
    EventType("subscription.expired", "subscription.expired", "A subscription ran out.", _SUBSCRIPTION),
    EventType("subscription.ending", "subscription.ending", "A trial or a plan ends soon.", _SUBSCRIPTION),
    EventType("payment.created", "payment.created", "An attempt to pay began.", _PAYMENT),
    EventType("payment.pending", "payment.pending", "The payment can be made at the gateway.", _PAYMENT),
    EventType("payment.succeeded", "payment.succeeded", "Money came.", _PAYMENT),
    EventType("payment.failed", "payment.failed", "The payment was refused or could not be made.", _PAYMENT),
    EventType("payment.expired", "payment.expired", "Nobody paid in time.", _PAYMENT),
    EventType("payment.canceled", "payment.canceled", "The payment was given up.", _PAYMENT),
    EventType("refund.requested", "refund.requested", "Money is to go back; its credits are parked.", _REFUND),
    EventType("refund.succeeded", "refund.succeeded", "Money went back.", _REFUND),
    EventType("refund.failed", "refund.failed", "No money went back; its credits returned.", _REFUND),
    EventType("dispute.opened", "dispute.opened", "A bank contests a payment.", _DISPUTE),
    EventType("dispute.won", "dispute.won", "A contested payment stays paid.", _DISPUTE),
    EventType("dispute.lost", "dispute.lost", "A bank took a payment back; what was spent of it is owed.", _DISPUTE),
    EventType("invoice.issued", "invoice.issued", "An invoice was issued.", _INVOICE),
    EventType("invoice.paid", "invoice.paid", "An invoice was paid.", _INVOICE),
    EventType("invoice.voided", "invoice.voided", "An invoice was voided.", _INVOICE),
    EventType("invoice.given_up", "invoice.given_up", "Nobody expects an invoice to be paid any more.", _INVOICE),
    EventType("credits.granted", "credits.granted", "Credits arrived: a plan's, bought ones or a bonus.", _CREDITS),
    EventType("credits.low", "credits.low", "The balance fell to the account's threshold.", _CREDITS),
    EventType("credits.exhausted", "credits.exhausted", "Less than one credit is left.", _CREDITS),
    EventType("credits.expiring", "credits.expiring", "Bought or given credits expire soon.", _EXPIRY),
    EventType("quota.low", "quota.low", "Four fifths of the plan's day are used.", _QUOTA),
    EventType("quota.exhausted", "quota.exhausted", "The plan's day is used up.", _QUOTA),
    EventType("key.created", "api_key.created", "An API key was made.", _KEY),
    EventType("key.changed", "api_key.changed", "A key's name, limits, allow lists or expiry changed.", _KEY),
    EventType("key.limits_changed", "api_key.limits_changed", "An operator changed a key's limits.", _KEY),
    EventType("key.rotated", "api_key.rotated", "A key was replaced; it works for a while longer.", _KEY),
    EventType("key.revoked", "api_key.revoked", "A key was revoked.", _KEY),
    EventType("key.unused", "api_key.unused", "Nobody has used a key for a long time.", _KEY),
    EventType("budget.low", "budget.low", "A key spent four fifths of its credits of the day or month.", _BUDGET),
    EventType("budget.exhausted", "budget.exhausted", "A key spent its credits of the day or month.", _BUDGET),
)

CATALOGUE: Mapping[str, EventType] = {entry.name: entry for entry in _ENTRIES}
_BY_KIND: Mapping[str, EventType] = {entry.kind: entry for entry in _ENTRIES}
assert len(CATALOGUE) == len(_BY_KIND) == len(_ENTRIES)


def event_type_of(event: Event) -> EventType | None:
    """What customers call `event`; None for one that is not for them."""
    return _BY_KIND.get(event.kind)


def message_id(event: Event) -> str:
    """The `webhook-id` under which receivers know `event`, whatever endpoint or attempt brings it."""
    return f"evt_{event.pk.hex}"


def message_body(event: Event, event_type: EventType) -> str:
    """The message that tells `event`: type, time, and the object with what is seen of before and after."""
    data: dict[str, Any] = {
        "object": event.object_type,
        "id": event.object_id,
        "account_id": str(event.account_id),
        "after": _seen(event.after, event_type),
    }
    if before := _seen(event.before, event_type):
        data["before"] = before
    return body_of(event_type.name, event.at, data)


def body_of(name: str, at: datetime, data: Mapping[str, Any]) -> str:
    """A message as Standard Webhooks lays it out: `type`, `timestamp`, `data`."""
    timestamp = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": name, "timestamp": timestamp, "data": data}, ensure_ascii=False, separators=(",", ":"))


def _seen(values: Mapping[str, Any], event_type: EventType) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in event_type.fields}
