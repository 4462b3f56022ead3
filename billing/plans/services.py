"""Writing what is sold: plans and their prices, each change with its event.

The console's forms write through their own pages; wizards and imports come here. Rules are the same: a price is added and never
changed, and what a subscription bought stays pinned to it.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction

from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .models import Plan, PlanPrice

# What is set of a plan; its code is for good.
PLAN_FIELDS = (
    "family",
    "name",
    "description",
    "visibility",
    "sort_order",
    "interval",
    "interval_count",
    "renews",
    "billing_mode",
    "rounding",
    "period_credits",
    "daily_limit",
    "requests_per_minute",
    "requests_per_hour",
    "requests_per_day",
    "tokens_per_minute",
    "concurrent_calls",
    "priority",
    "trial_days",
    "overage_ceiling",
    "features",
)
_CURRENCY = re.compile(r"[A-Z]{3}\Z")


def plan_create(*, code: str, values: Mapping[str, Any], actor: Actor, reason: str) -> Plan:
    """A new plan; `values` of `PLAN_FIELDS`. Raises ApiError 409 `already_exists`, 400 `invalid_request` naming the field."""
    with transaction.atomic():
        if Plan.objects.filter(code=code).exists():
            raise ApiError(409, "already_exists", "There is a plan of this code.", param="code")
        plan = Plan(code=code, **_known(values))
        _check(plan)
        plan.save(force_insert=True)
        told = {"code": code, **{name: _plain(getattr(plan, name)) for name in PLAN_FIELDS}}
        event_record(kind="plan.created", object_type="plan", object_id=plan.pk, actor=actor, after=told, reason=reason)
    return plan


def plan_change(*, plan: Plan, values: Mapping[str, Any], actor: Actor, reason: str) -> Plan:
    """Set fields of a plan, for everybody who has it; the same again writes nothing. Raises ApiError 400 `invalid_request`."""
    with transaction.atomic():
        plan = Plan.objects.select_for_update(no_key=True).get(pk=plan.pk)
        before = {name: _plain(getattr(plan, name)) for name in _known(values)}
        for name, value in values.items():
            setattr(plan, name, value)
        _check(plan)
        after = {name: _plain(getattr(plan, name)) for name in before}
        changed = [name for name in before if before[name] != after[name]]
        if changed:
            plan.save(update_fields=[*changed, "updated_at"])
            event_record(
                kind="plan.edited",
                object_type="plan",
                object_id=plan.pk,
                actor=actor,
                before={name: before[name] for name in changed},
                after={name: after[name] for name in changed},
                reason=reason,
            )
    return plan


def plan_price_add(
    *,
    plan: Plan,
    currency: str,
    amount: Decimal,
    actor: Actor,
    reason: str,
    tax_included: bool = True,
    overage_amount: Decimal | None = None,
    effective_from: datetime | None = None,
) -> PlanPrice:
    """A price of a plan, in force at once or from an instant ahead; running subscriptions keep theirs.

    Raises ApiError 409 `already_exists` for a price from the same instant, 400 `invalid_request`.
    """
    now = clock.now()
    if effective_from is not None and effective_from < now:
        raise ApiError(400, "invalid_request", "Prices take effect at once or later, never before.", param="effective_from")
    if not _CURRENCY.match(currency):
        raise ApiError(400, "invalid_request", "Three letters, such as DZD.", param="currency")
    at = effective_from or now
    with transaction.atomic():
        # Two prices at once of one plan go one after the other.
        Plan.objects.select_for_update(no_key=True).get(pk=plan.pk)
        if PlanPrice.objects.filter(plan=plan, currency=currency, effective_from=at).exists():
            told = "The plan has a price in this currency from this instant on."
            raise ApiError(409, "already_exists", told, param="effective_from")
        price = PlanPrice(
            plan=plan,
            currency=currency,
            amount=amount,
            tax_included=tax_included,
            overage_amount=overage_amount,
            effective_from=at,
        )
        _check(price)
        price.save(force_insert=True)
        event_record(
            kind="plan_price.created",
            object_type="plan_price",
            object_id=price.pk,
            actor=actor,
            after={
                "plan": plan.code,
                "currency": currency,
                "amount": _plain(amount),
                "tax_included": tax_included,
                "overage_amount": _plain(overage_amount),
                "effective_from": at.isoformat(),
            },
            reason=reason,
        )
    return price


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(values) - set(PLAN_FIELDS)):
        raise ApiError(400, "invalid_request", Text("A plan has no %(field)s.", field=unknown[0]), param=unknown[0])
    return dict(values)


def _check(row: Plan | PlanPrice) -> None:
    """Raises ApiError 400 `invalid_request` naming the first field that cannot be so."""
    try:
        row.full_clean(validate_unique=False)
    except ValidationError as error:
        name, said = next(iter(error.message_dict.items()))
        param = None if name == NON_FIELD_ERRORS else name
        raise ApiError(400, "invalid_request", " ".join(said), param=param) from None


def _plain(value: Any) -> Any:
    """A field as events keep it: decimals as text of equal spelling for equal values."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return value
