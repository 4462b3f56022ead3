"""What a subscription used: counted from the usage log, by model and by day of the account.

Months that left the log are added from their daily sums: their days are those of UTC.
"""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from billing.ledger.models import UsageArchive, UsageDay, UsageRecord
from billing.plans.models import Plan
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO

from .metered import subscription_overage
from .models import Subscription

LONGEST_DAYS = 366


@dataclass(frozen=True, slots=True)
class SubscriptionUsage:
    """Totals of a half-open time, and what they are made of."""

    start: datetime
    end: datetime
    totals: dict[str, Any]
    overage: Decimal
    by_model: list[dict[str, Any]]
    by_day: list[dict[str, Any]]


def subscription_usage(
    *, subscription: Subscription, start_date: date | None = None, end_date: date | None = None
) -> SubscriptionUsage:
    """Use from `start_date` to `end_date`, both included, as days of the account's zone; by default of the running period.

    ApiError 400 `invalid_request` for days out of order or more than 366 of them.
    """
    zone = subscription.account.zone
    start = subscription.current_period_start
    end = min(subscription.current_period_end or clock.now(), subscription.ended_at or clock.now(), clock.now())
    if start_date is not None:
        start = datetime.combine(start_date, time(), zone)
    if end_date is not None:
        end = datetime.combine(end_date + timedelta(days=1), time(), zone)
    if end < start or end - start > timedelta(days=LONGEST_DAYS + 1):
        raise ApiError(400, "invalid_request", "The end lies before the start, or too far after it.", param="end_date")
    rows = UsageRecord.objects.filter(
        account=subscription.account_id, subscription_id=subscription.pk, started_at__gte=start, started_at__lt=end
    )
    sums = {
        "requests": Count("id"),
        "credits": Sum("credits_charged", default=ZERO),
        "input_tokens": Sum("input_tokens", default=0),
        "output_tokens": Sum("output_tokens", default=0),
    }
    ends = UsageRecord.End
    failed = Count("id", filter=Q(end__in=(ends.PROVIDER_ERROR, ends.REFUSED, ends.PROCESS_DIED)))
    days = rows.annotate(day=TruncDate("started_at", tzinfo=zone)).values("day").order_by("day")
    models = rows.values(name=F("model")).order_by("name")
    found = SubscriptionUsage(
        start=start,
        end=end,
        totals=rows.aggregate(**sums, failed_requests=failed),
        overage=subscription_overage(subscription) if subscription.plan.billing_mode == Plan.BillingMode.METERED else ZERO,
        by_model=[_row(row, model=row["name"]) for row in models.annotate(**sums)],
        by_day=[_row(row, day=row["day"]) for row in days.annotate(requests=sums["requests"], credits=sums["credits"])],
    )
    archived = _archived(subscription, start, end)
    return found if archived is None else _with_archived(found, archived)


def _archived(subscription: Subscription, start: datetime, end: datetime) -> QuerySet[UsageDay] | None:
    """The sums of those days of the time whose calls are only in archives; None where there are none."""
    months = UsageArchive.objects.filter(state__in=UsageArchive.AWAY, month__gt=start - timedelta(days=32), month__lte=end)
    wanted = Q()
    for month in months.values_list("month", flat=True):
        wanted |= Q(day__gte=month, day__lt=(month + timedelta(days=32)).replace(day=1))
    if not wanted:
        return None
    # A day belongs to the time that its noon falls into.
    noon = timedelta(hours=12)
    first, last = (start + noon).astimezone(UTC).date(), (end - noon).astimezone(UTC).date()
    rows = UsageDay.objects.filter(account=subscription.account_id, subscription_id=subscription.pk)
    return rows.filter(wanted, day__gte=first, day__lte=last)


def _with_archived(found: SubscriptionUsage, archived: QuerySet[UsageDay]) -> SubscriptionUsage:
    sums = {
        "requests": Sum("calls", default=0),
        "credits": Sum("credits_charged", default=ZERO),
        "input_tokens": Sum("input_tokens", default=0),
        "output_tokens": Sum("output_tokens", default=0),
    }
    totals = archived.aggregate(**sums, failed_requests=Sum("calls_failed", default=0))
    by_model: Any = archived.order_by().values(name=F("model")).annotate(**{f"{name}_": total for name, total in sums.items()})
    by_day = archived.order_by().values("day").annotate(requests=sums["requests"], credits=sums["credits"])
    return replace(
        found,
        totals={name: value + totals[name] for name, value in found.totals.items()},
        by_model=_added(
            found.by_model, [{"model": row["name"], **{n: row[f"{n}_"] for n in sums}} for row in by_model], "model"
        ),
        by_day=_added(found.by_day, [dict(row) for row in by_day], "day"),
    )


def _added(rows: list[dict[str, Any]], more: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Both lists as one, in the order of `key`; rows of one key are added up."""
    merged: dict[Any, dict[str, Any]] = {}
    for row in (*rows, *more):
        known = merged.get(row[key])
        merged[row[key]] = row if known is None else {n: value if n == key else known[n] + value for n, value in row.items()}
    return [merged[name] for name in sorted(merged)]


def _row(row: Any, **named: Any) -> dict[str, Any]:
    """A row of figures under the name of what they are about."""
    return named | {name: value for name, value in row.items() if name != "name"}
