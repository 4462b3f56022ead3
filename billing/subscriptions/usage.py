"""What a subscription used: counted from the usage log, by model and by day of the account."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Count, F, Q, Sum
from django.db.models.functions import TruncDate

from billing.ledger.models import UsageRecord
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
    return SubscriptionUsage(
        start=start,
        end=end,
        totals=rows.aggregate(**sums, failed_requests=failed),
        overage=subscription_overage(subscription) if subscription.plan.billing_mode == Plan.BillingMode.METERED else ZERO,
        by_model=[_row(row, model=row["name"]) for row in models.annotate(**sums)],
        by_day=[_row(row, day=row["day"]) for row in days.annotate(requests=sums["requests"], credits=sums["credits"])],
    )


def _row(row: Any, **named: Any) -> dict[str, Any]:
    """A row of figures under the name of what they are about."""
    return named | {name: value for name, value in row.items() if name != "name"}
