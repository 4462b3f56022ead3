"""The operator's ceilings on provider cost: setting them, and how far each is spent.

Days and months are UTC's. Spent is what calls have cost, from the usage log; reserved is the worst case of calls under way,
from the open holds. Alerts look at what is spent; calls are admitted while spent and reserved together stay below the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction

from billing.events.services import Actor, event_record
from billing.ledger.rollups import USAGE_DAYS_OF_ALL, usage_parameters
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO

from .models import Budget, Provider

WARNING_PERCENT = 75
CRITICAL_PERCENT = 90

# A limit that the caller does not mention stays as it is.
UNCHANGED: Any = object()

# The running day is always read from the log, closed ones from their sums.
_SPENT = f"""
    SELECT provider, coalesce(sum(cost_usd) FILTER (WHERE day = %(until)s), 0), sum(cost_usd)
    FROM ({USAGE_DAYS_OF_ALL}) AS days WHERE provider <> '' GROUP BY provider
"""  # noqa: S608  constant text
_RESERVED = "SELECT provider, sum(worst_cost_usd) FROM billing_hold WHERE provider <> '' GROUP BY provider"


class Period(StrEnum):
    """What a limit counts over."""

    DAY = "day"
    MONTH = "month"


class Level(StrEnum):
    """How much of a limit is spent."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One limit and what became of it. `provider` None is all of them together; amounts in USD; `limit_usd` None: no limit."""

    provider: str | None
    period: Period
    limit_usd: Decimal | None
    spent_usd: Decimal
    reserved_usd: Decimal

    @property
    def remaining_usd(self) -> Decimal | None:
        """What further calls may reserve, never below zero."""
        return None if self.limit_usd is None else max(self.limit_usd - self.spent_usd - self.reserved_usd, ZERO)

    @property
    def percent(self) -> int | None:
        """Whole percent of the limit that is spent, rounded down; 100 of a limit of nothing."""
        if self.limit_usd is None:
            return None
        if not self.limit_usd:
            return 100
        return int((self.spent_usd * 100 / self.limit_usd).quantize(Decimal(1), ROUND_DOWN))

    @property
    def level(self) -> Level:
        """What an alert says of it."""
        percent = self.percent
        if percent is None or percent < WARNING_PERCENT:
            return Level.OK
        if percent < CRITICAL_PERCENT:
            return Level.WARNING
        return Level.CRITICAL if percent < 100 else Level.EXHAUSTED


def budget_states(*, now: datetime, providers: Sequence[str | None] | None = None) -> list[BudgetState]:
    """Day and month of every budget, all providers together first; four queries.

    There is always a state of all providers together, limited or not. `providers` names the wanted ones (None: all together),
    which are told whether limited or not.
    """
    today = now.astimezone(UTC).date()
    with connection.cursor() as cursor:
        cursor.execute(_SPENT, usage_parameters(since=today.replace(day=1), until=today))
        spent = {provider: (of_day, of_month) for provider, of_day, of_month in cursor.fetchall()}
        cursor.execute(_RESERVED)
        reserved: dict[str, Decimal] = dict(cursor.fetchall())
    limits: dict[str | None, Budget | None] = {None: None, **dict.fromkeys(providers or ())}
    for budget in Budget.objects.select_related("provider").order_by("provider__priority", "provider__slug"):
        limits[budget.provider.slug if budget.provider else None] = budget
    states = []
    for provider, row in limits.items():
        if providers is not None and provider not in providers:
            continue
        if provider is None:
            of_day, of_month = (sum((sums[position] for sums in spent.values()), ZERO) for position in (0, 1))
            held = sum(reserved.values(), ZERO)
        else:
            of_day, of_month = spent.get(provider, (ZERO, ZERO))
            held = reserved.get(provider, ZERO)
        daily, monthly = (None, None) if row is None else (row.daily_limit_usd, row.monthly_limit_usd)
        states.append(BudgetState(provider, Period.DAY, daily, of_day, held))
        states.append(BudgetState(provider, Period.MONTH, monthly, of_month, held))
    return states


def budget_set(
    *,
    provider: Provider | None,
    actor: Actor,
    reason: str,
    daily_limit_usd: Decimal | None = UNCHANGED,
    monthly_limit_usd: Decimal | None = UNCHANGED,
) -> Budget | None:
    """Set the limits named, for one provider or for all together; None takes a limit away, effective within a second.

    The same again writes nothing; a budget without any limit is removed, and the answer is None. Raises ApiError 400
    `invalid_request` without a reason, or with a limit below zero or finer than a nano-USD.
    """
    if not reason.strip():
        raise ApiError(400, "invalid_request", "Say why.", param="reason")
    wanted = {"daily_limit_usd": daily_limit_usd, "monthly_limit_usd": monthly_limit_usd}
    changes = {name: _checked(name, value) for name, value in wanted.items() if value is not UNCHANGED}
    with transaction.atomic():
        if provider is not None:
            # Two at once for a provider without a budget: one after the other.
            provider = Provider.objects.select_for_update(no_key=True).get(pk=provider.pk)
        row = Budget.objects.select_for_update().filter(provider=provider).first()
        before = _told(row)
        changed = row or Budget(provider=provider)
        for name, value in changes.items():
            setattr(changed, name, value)
        after = _told(changed)
        if after == before:
            return row
        kept: Budget | None = changed
        if after["daily_limit_usd"] is None and after["monthly_limit_usd"] is None:
            object_id = changed.pk
            changed.delete()
            kept = None
        else:
            changed.save()
            object_id = changed.pk
        event_record(
            kind="budget.changed",
            object_type="budget",
            object_id=object_id,
            actor=actor,
            before=before,
            after={"provider": provider.slug if provider else None, **after},
            reason=reason,
        )
    return kept


def _checked(name: str, value: Decimal | None) -> Decimal | None:
    if value is None:
        return None
    field: Any = Budget._meta.get_field(name)
    try:
        checked: Decimal = field.clean(value, None)
    except ValidationError as error:
        raise ApiError(400, "invalid_request", " ".join(error.messages), param=name) from None
    return checked


def _told(row: Budget | None) -> dict[str, str | None]:
    def text(value: Decimal | None) -> str | None:
        return None if value is None else f"{value.normalize():f}"

    if row is None:
        return {"daily_limit_usd": None, "monthly_limit_usd": None}
    return {"daily_limit_usd": text(row.daily_limit_usd), "monthly_limit_usd": text(row.monthly_limit_usd)}
