"""What is wrong now, for the console's home and for metrics."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Case, Count, IntegerField, Q, QuerySet, Value, When

from .models import RANK, Alert, AlertDelivery, Level


def open_alerts() -> QuerySet[Alert]:
    """Open alerts with their rules, the gravest first, the newest of equals first. `title`, `text`, `level`, `link`,
    `opened_at` and `silenced_until` say what a page shows; `link` is an address of the console."""
    rank = Case(*(When(level=level, then=Value(number)) for level, number in RANK.items()), output_field=IntegerField())
    found = Alert.objects.filter(state=Alert.State.OPEN).select_related("rule")
    return found.annotate(rank=rank).order_by("-rank", "-opened_at")


@dataclass(frozen=True, slots=True)
class AlertFigures:
    """Open alerts by level, and messages that wait or were given up within a day."""

    by_level: dict[str, int]
    waiting: int
    failed: int


def alert_figures(*, now: datetime) -> AlertFigures:
    """What `/metrics` tells, in two queries."""
    counts = dict(Alert.objects.filter(state=Alert.State.OPEN).order_by().values_list("level").annotate(count=Count("pk")))
    state = AlertDelivery.State
    deliveries = AlertDelivery.objects.exclude(occasion=AlertDelivery.Occasion.TEST).filter(
        Q(state=state.PENDING) | Q(state=state.FAILED, finished_at__gt=now - timedelta(days=1))
    )
    sums = deliveries.aggregate(
        waiting=Count("pk", filter=Q(state=state.PENDING)), failed=Count("pk", filter=Q(state=state.FAILED))
    )
    return AlertFigures({str(level): counts.get(level, 0) for level in Level.values}, sums["waiting"], sums["failed"])
