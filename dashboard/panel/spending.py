"""What an account spent in some days: by day, model, service and key, for its pages."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.utils.translation import gettext as _

from billing.accounts.models import Account
from billing.ledger.credits import SERVICE_ENDPOINT
from billing.ledger.usage_reports import By, Order, UsageLine, UsageReport, UsageScope, usage_report
from billing.plans.models import ServicePrice
from iafactory.common.formats import short_day_text
from iafactory.common.money import ZERO

LINES = 6
# What an address of the gateway is to a customer.
_SERVICES: tuple[tuple[str, Any], ...] = (
    ("chat", lambda: _("Chat")),
    ("responses", lambda: _("Chat")),
    ("messages", lambda: _("Chat")),
    ("route", lambda: _("Chat")),
    ("embeddings", lambda: _("Embeddings")),
    ("images", lambda: _("Images")),
    ("transcriptions", lambda: _("Transcription")),
    ("speech", lambda: _("Speech")),
    ("music", lambda: _("Music")),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table: credits and calls under a name, its share in percent, and the filter of the history behind it."""

    label: str
    calls: int
    credits: Decimal
    percent: int
    query: str


@dataclass(frozen=True, slots=True)
class Group:
    """A table."""

    title: str
    head: str
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Spending:
    """Sums of some days."""

    credits: Decimal
    calls: int
    by_day: list[UsageLine]
    groups: list[Group]

    def chart(self) -> dict[str, Any]:
        """Credits by day for the chart; calls where nothing was charged."""
        in_credits = self.credits > 0
        values = [line.sums.credits_charged if in_credits else line.sums.calls for line in self.by_day]
        return {
            "label": _("Credits") if in_credits else _("Calls"),
            "labels": [short_day_text(line.key) for line in self.by_day],
            "values": [str(value) for value in values],
        }


def spending_of(*, account: Account, since: date, until: date) -> Spending:
    """What `account` spent in the days `since` to `until`, as UTC has them; one scan of the days' sums."""
    report = usage_report(
        (By.DAY, By.MODEL, By.ENDPOINT, By.KEY),
        since=since,
        until=until,
        scope=UsageScope(account_id=account.pk),
        order=Order.CREDITS,
    )
    services = dict(ServicePrice.objects.values_list("code", "name"))
    return Spending(
        credits=report.totals.credits_charged,
        calls=report.totals.calls,
        by_day=report.by[By.DAY],
        groups=[
            _group(report, By.MODEL, _("By model"), _("Model"), lambda line: line.label or _("Without a model"), "model"),
            _group(report, By.ENDPOINT, _("By service"), _("Service"), lambda line: _service(str(line.key), services), ""),
            _group(report, By.KEY, _("By key"), _("Key"), lambda line: line.label or _("Playground and sessions"), "api_key"),
        ],
    )


def _group(
    report: UsageReport, dimension: By, title: str, head: str, name: Callable[[UsageLine], str], filter_name: str
) -> Group:
    merged: dict[str, Line] = {}
    for line in report.by[dimension]:
        label = name(line)
        before = merged.get(label)
        query = urlencode({filter_name: line.key}) if filter_name and line.key else ""
        calls = line.sums.calls + (before.calls if before else 0)
        credits = line.sums.credits_charged + (before.credits if before else ZERO)
        merged[label] = Line(label, calls, credits, _percent(credits, calls, report), query)
    lines = sorted(merged.values(), key=lambda line: (line.credits, line.calls), reverse=True)
    return Group(title, head, lines[:LINES])


def _percent(credits: Decimal, calls: int, report: UsageReport) -> int:
    if report.totals.credits_charged > 0:
        return int(credits * 100 / report.totals.credits_charged)
    return calls * 100 // max(report.totals.calls, 1)


def _service(endpoint: str, services: dict[str, str]) -> str:
    if endpoint.startswith(SERVICE_ENDPOINT):
        code = endpoint.removeprefix(SERVICE_ENDPOINT)
        return _(services[code]) if code in services else code
    return next((words() for part, words in _SERVICES if part in endpoint), endpoint)
