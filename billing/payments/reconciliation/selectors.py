"""How our books and the gateways stand to each other, for the console and for alerts."""

from dataclasses import dataclass
from datetime import date

from django.db.models import Count, Min

from .models import Reconciliation, ReconciliationRow


@dataclass(frozen=True, slots=True)
class Standing:
    """Differences that wait for an operator, by outcome, and days whose comparison did not come to its end."""

    open_by_outcome: dict[str, int]
    unfinished_days: int
    oldest_unfinished: date | None

    @property
    def open_findings(self) -> int:
        return sum(self.open_by_outcome.values())


def findings_open() -> int:
    """How many differences with gateways wait for an operator."""
    return ReconciliationRow.objects.filter(state=ReconciliationRow.State.OPEN).count()


def reconciliation_standing() -> Standing:
    """Where reconciliation stands, in two queries."""
    rows = ReconciliationRow.objects.filter(state=ReconciliationRow.State.OPEN).values_list("outcome")
    days = Reconciliation.objects.exclude(state=Reconciliation.State.COMPLETE).aggregate(number=Count("pk"), oldest=Min("day"))
    counts = dict(rows.annotate(number=Count("pk")).order_by("outcome"))
    return Standing(open_by_outcome=counts, unfinished_days=days["number"], oldest_unfinished=days["oldest"])
