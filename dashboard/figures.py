"""What the operator earns, spends and serves over a range of UTC days: figures of the console's home and of the operators' API.

Calls come from the days' sums (the running day from the log), money from paid invoices. Amounts are in USD; invoices count at
the exchange rate they were made with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import connection
from django.db.models import Count

from billing.accounts.models import Account
from billing.ledger.rollups import USAGE_DAYS_OF_ACCOUNTS, USAGE_DAYS_OF_ALL, day_begin, usage_parameters
from billing.subscriptions.models import Subscription
from iafactory.common.money import ZERO

# How far back one look may go: a leap year.
MOST_DAYS = 366
TOP_ACCOUNTS = 8

_SUMS = """
    coalesce(sum(calls){0}, 0)::bigint, coalesce(sum(calls_failed){0}, 0)::bigint, coalesce(sum(cost_usd){0}, 0),
    coalesce(sum(credits_charged){0}, 0), coalesce(sum(latency_ms){0}, 0)::bigint, coalesce(sum(latency_calls){0}, 0)::bigint
"""
_USAGE = f"""
    SELECT day, provider, {_SUMS.format("")} FROM ({USAGE_DAYS_OF_ALL}) AS days GROUP BY day, provider
"""  # noqa: S608  constant text
# One look at the accounts' days: who used most on the days shown, and how many used anything on which days.
_ACCOUNTS = f"""
    WITH accounts AS MATERIALIZED (
        SELECT account_id, max(day) AS last_day, bool_or(shown) AS shown, {_SUMS.format(" FILTER (WHERE shown)")}
        FROM (
            SELECT *, day >= %(shown_since)s AND day <= %(shown_until)s AS shown FROM ({USAGE_DAYS_OF_ACCOUNTS}) AS days
        ) AS days
        GROUP BY account_id
    )
    (SELECT * FROM accounts WHERE shown ORDER BY 6 DESC, 4 DESC, account_id LIMIT {TOP_ACCOUNTS})
    UNION ALL
    SELECT NULL, NULL, NULL, count(*) FILTER (WHERE last_day >= %(today)s), count(*) FILTER (WHERE last_day >= %(week)s),
        count(*) FILTER (WHERE last_day >= %(month)s), count(*) FILTER (WHERE shown), 0, 0
    FROM accounts
"""  # noqa: S608  constant text

# Net of tax: what was paid of invoices, less what credit notes gave back and what banks took back, in the share that was net.
_REVENUE = """
    SELECT day, sum(amount / rate), count(*) FILTER (WHERE rate IS NULL) FROM (
        SELECT (paid_at AT TIME ZONE 'UTC')::date AS day,
            CASE kind WHEN 'invoice' THEN net + rounding_total ELSE -net END AS amount,
            CASE currency WHEN 'USD' THEN 1 ELSE fx_rate END AS rate
        FROM billing_invoice WHERE state = 'paid' AND paid_at >= %(begin)s AND paid_at < %(end)s
        UNION ALL
        SELECT (dispute.closed_at AT TIME ZONE 'UTC')::date,
            -dispute.amount * CASE WHEN invoice.total > 0 THEN invoice.net / invoice.total ELSE 1 END,
            CASE dispute.currency WHEN 'USD' THEN 1 ELSE payment.fx_rate END
        FROM billing_dispute dispute JOIN billing_payment payment ON payment.id = dispute.payment_id
        LEFT JOIN billing_invoice invoice ON invoice.id = payment.invoice_id
        WHERE dispute.state = 'lost' AND dispute.closed_at >= %(begin)s AND dispute.closed_at < %(end)s
    ) AS money GROUP BY day
"""

CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class CallSums:
    """Sums over some calls; cost in USD. `latency_ms` is the mean of the calls that were timed, None without any."""

    calls: int = 0
    calls_failed: int = 0
    cost_usd: Decimal = ZERO
    credits: Decimal = ZERO
    latency_ms_sum: int = 0
    latency_calls: int = 0

    def __add__(self, other: "CallSums") -> "CallSums":
        return CallSums(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def success_percent(self) -> Decimal | None:
        """Calls that no provider and no dying process spoilt, in percent to two places, rounded down; None without calls."""
        if not self.calls:
            return None
        # Rounded down: a failure is never told as 100 %.
        return Decimal((self.calls - self.calls_failed) * 10_000 // self.calls) / 100

    @property
    def latency_ms(self) -> int | None:
        return self.latency_ms_sum // self.latency_calls if self.latency_calls else None


@dataclass(frozen=True, slots=True)
class Economics:
    """What came in and what providers charge for it, in USD."""

    revenue_usd: Decimal
    cost_usd: Decimal

    @property
    def profit_usd(self) -> Decimal:
        return self.revenue_usd - self.cost_usd

    @property
    def margin_percent(self) -> Decimal | None:
        """Profit as a share of revenue, to two places; None without revenue."""
        return (self.profit_usd * 100 / self.revenue_usd).quantize(CENT) if self.revenue_usd > 0 else None


@dataclass(frozen=True, slots=True)
class DayFigures:
    """One UTC day."""

    day: date
    usage: CallSums
    revenue_usd: Decimal


@dataclass(frozen=True, slots=True)
class TopAccount:
    """An account with what it used in the range."""

    id: UUID
    name: str
    usage: CallSums


@dataclass(frozen=True, slots=True)
class OperatorFigures:
    """Everything of the range `since` to `until`, both included, and today, 7 and 30 days beside it."""

    since: date
    until: date
    days: Sequence[DayFigures]
    usage: CallSums
    economics: Economics
    today: Economics
    week: Economics
    month: Economics
    usage_today: CallSums
    providers: Sequence[tuple[str, CallSums]]
    top_accounts: Sequence[TopAccount]
    active_today: int
    active_week: int
    active_month: int
    active: int
    # Paid invoices and disputes without an exchange rate: they are missing in the revenue.
    unconverted: int


def operator_figures(*, since: date, until: date, now: datetime) -> OperatorFigures:
    """The figures, in six queries however many rows there are. Days that have not come yet count nothing."""
    today = now.astimezone(UTC).date()
    week, month = today - timedelta(days=6), today - timedelta(days=29)
    first, last = min(since, month), max(until, today)
    revenue, without_rate = _revenue(first, last)
    by_day: dict[date, CallSums] = {}
    by_provider: dict[str, CallSums] = {}
    for day, provider, sums in _usage(first, last):
        by_day[day] = by_day.get(day, CallSums()) + sums
        if provider and since <= day <= until:
            by_provider[provider] = by_provider.get(provider, CallSums()) + sums
    accounts, active = _accounts(first, last, since=since, until=until, today=today, week=week, month=month)

    def economics(begin: date, end: date) -> Economics:
        return Economics(
            sum((amount for day, amount in revenue.items() if begin <= day <= end), ZERO),
            sum((sums.cost_usd for day, sums in by_day.items() if begin <= day <= end), ZERO),
        )

    days = [
        DayFigures(day, by_day.get(day, CallSums()), revenue.get(day, ZERO))
        for day in (since + timedelta(days=number) for number in range((until - since).days + 1))
    ]
    names = dict(Account.objects.filter(pk__in=accounts).values_list("pk", "name"))
    return OperatorFigures(
        since=since,
        until=until,
        days=days,
        usage=sum((one.usage for one in days), CallSums()),
        economics=economics(since, until),
        today=economics(today, today),
        week=economics(week, today),
        month=economics(month, today),
        usage_today=by_day.get(today, CallSums()),
        providers=sorted(by_provider.items(), key=lambda one: (-one[1].calls, one[0])),
        top_accounts=[TopAccount(key, names.get(key, ""), sums) for key, sums in accounts.items()],
        active_today=active[0],
        active_week=active[1],
        active_month=active[2],
        active=active[3],
        unconverted=sum(count for day, count in without_rate.items() if since <= day <= until),
    )


def _usage(first: date, last: date) -> list[tuple[date, str, CallSums]]:
    with connection.cursor() as cursor:
        cursor.execute(_USAGE, usage_parameters(since=first, until=last))
        return [(day, provider, CallSums(*sums)) for day, provider, *sums in cursor.fetchall()]


def _accounts(
    first: date, last: date, *, since: date, until: date, **spans: date
) -> tuple[dict[UUID, CallSums], tuple[int, int, int, int]]:
    """The first accounts by cost, and how many were active today, in 7 days, in 30 days, and on the days shown."""
    parameters = {**usage_parameters(since=first, until=last), **spans, "shown_since": since, "shown_until": until}
    with connection.cursor() as cursor:
        cursor.execute(_ACCOUNTS, parameters)
        *rows, counts = cursor.fetchall()
    today, week, month, shown = (int(number) for number in counts[3:7])
    return {account: CallSums(*sums) for account, _last, _shown, *sums in rows}, (today, week, month, shown)


def _revenue(first: date, last: date) -> tuple[dict[date, Decimal], dict[date, int]]:
    with connection.cursor() as cursor:
        cursor.execute(_REVENUE, {"begin": day_begin(first), "end": day_begin(last + timedelta(days=1))})
        rows = cursor.fetchall()
    return {day: (amount or ZERO).quantize(CENT) for day, amount, _ in rows}, {day: count for day, _, count in rows}


@dataclass(frozen=True, slots=True)
class PlanShare:
    """A plan and how many live subscriptions it has."""

    id: int
    code: str
    name: str
    subscriptions: int


def plan_mix() -> list[PlanShare]:
    """Live subscriptions by plan, most first, in one query."""
    live = Subscription.objects.filter(state__in=Subscription.LIVE)
    rows = live.values("plan_id", "plan__code", "plan__name").annotate(number=Count("pk")).order_by("-number", "plan__code")
    return [PlanShare(row["plan_id"], row["plan__code"], row["plan__name"], row["number"]) for row in rows]
