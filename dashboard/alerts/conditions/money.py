"""Budgets, payments, books, margins and losses."""

from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Count, Q, Sum
from django.urls import reverse

from billing.abuse.selectors import open_signals_by_account
from billing.events.models import Event
from billing.ledger.models import BooksVerification, LedgerAccount, LedgerEntry, LedgerTransaction
from billing.payments.inbox.models import GatewayWebhook
from billing.payments.models import Dispute, GatewayName, Payment
from billing.payments.reconciliation.models import ReconciliationRow
from billing.payments.reconciliation.selectors import reconciliation_standing
from iafactory.common.admin import change_url, list_url
from iafactory.common.texts import Amount, Text, text_of
from routing.budgets import Period, budget_states
from routing.economics import public_economics
from routing.models import Budget

from ..models import Level
from .base import Finding, Thresholds

OVER_THE_LIMIT = "messages_a_day"


def budgets(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Every limited budget of the day and the month that passed a threshold."""
    steps = (
        (thresholds["warning_percent"], Level.WARNING),
        (thresholds["critical_percent"], Level.CRITICAL),
        (thresholds["exhausted_percent"], Level.CRITICAL),
    )
    rows = {
        budget.provider.slug if budget.provider else None: budget.pk for budget in Budget.objects.select_related("provider")
    }
    found = []
    for state in budget_states(now=now):
        percent = state.percent
        passed = [(step, level) for step, level in steps if percent is not None and percent >= step]
        if not passed or state.limit_usd is None:
            continue
        step, level = max(passed)
        whose = state.provider or Text("all providers")
        period = Text("the day") if state.period is Period.DAY else Text("the month")
        found.append(
            Finding(
                subject=f"{state.provider or 'all'}:{state.period}",
                title=Text(
                    "Budget of %(period)s, %(whose)s: %(percent)s %% spent", period=period, whose=whose, percent=percent
                ),
                text=Text(
                    "%(spent)s of %(limit)s USD are spent, %(reserved)s USD more are reserved for calls under way.",
                    spent=Amount(state.spent_usd),
                    limit=Amount(state.limit_usd),
                    reserved=Amount(state.reserved_usd),
                ),
                level=level,
                step=step,
                figures={"percent": percent, "spent_usd": str(state.spent_usd), "limit_usd": str(state.limit_usd)},
                link=change_url("routing.budget", rows[state.provider])
                if state.provider in rows
                else list_url("routing.budget"),
            )
        )
    return found


def abusive_users(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """More accounts over their messages of the day than is usual."""
    over = [
        account
        for account, signals in open_signals_by_account().items()
        if any(signal.signal == OVER_THE_LIMIT for signal in signals)
    ]
    if len(over) <= thresholds["more_than"]:
        return []
    return [
        Finding(
            subject="all",
            title=Text(
                "%(count)s user is over the limit of messages",
                "%(count)s users are over the limit of messages",
                count=len(over),
            ),
            text=Text(
                "More than %(limit)s account sent more messages today than its plan and the abuse limit allow.",
                "More than %(limit)s accounts sent more messages today than their plan and the abuse limit allow.",
                limit=thresholds["more_than"],
            ),
            figures={"accounts": len(over)},
            link=list_url("ratelimit.abusesignal", state__exact="open", signal=OVER_THE_LIMIT),
        )
    ]


def payments(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Payments in review, money without an invoice, differences with gateways, disputes without an answer."""
    found = []
    review = Payment.objects.filter(state=Payment.State.REVIEW).count()
    if review >= thresholds["review"]:
        found.append(
            Finding(
                subject="review",
                title=Text("%(count)s payment waits for review", "%(count)s payments wait for review", count=review),
                text=Text("What the gateway says differs from what was asked for; nothing moved."),
                figures={"payments": review},
                link=list_url("billing.payment", state__exact=Payment.State.REVIEW),
            )
        )
    unapplied = Payment.objects.filter(unapplied_amount__gt=0).count()
    if unapplied >= thresholds["unapplied"]:
        found.append(
            Finding(
                subject="unapplied",
                title=Text(
                    "%(count)s payment brought money that pays nothing",
                    "%(count)s payments brought money that pays nothing",
                    count=unapplied,
                ),
                text=Text("Money came that no open invoice waited for: pay an invoice with it, or send it back."),
                figures={"payments": unapplied},
                link=list_url("billing.payment", unapplied="1"),
            )
        )
    standing = reconciliation_standing()
    if standing.open_findings >= thresholds["mismatches"]:
        outcomes = [
            Text("%(outcome)s (%(count)s)", outcome=text_of(ReconciliationRow.Outcome(outcome).label), count=count)
            for outcome, count in standing.open_by_outcome.items()
        ]
        found.append(
            Finding(
                subject="mismatch",
                title=Text(
                    "%(count)s difference between our books and the gateways",
                    "%(count)s differences between our books and the gateways",
                    count=standing.open_findings,
                ),
                text=Text("By outcome: %(outcomes)s.", outcomes=outcomes),
                figures=standing.open_by_outcome,
                link=list_url("billing.reconciliationrow", state__exact=ReconciliationRow.State.OPEN),
            )
        )
    oldest = standing.oldest_unfinished
    if oldest is not None and (now.date() - oldest).days > thresholds["unfinished_days"]:
        found.append(
            Finding(
                subject="unreconciled",
                title=Text(
                    "%(count)s day is not compared with its gateways",
                    "%(count)s days are not compared with their gateways",
                    count=standing.unfinished_days,
                ),
                text=Text("The oldest is %(day)s; its note says why.", day=oldest.isoformat()),
                figures={"days": standing.unfinished_days},
                link=list_url("billing.reconciliation"),
            )
        )
    until = now + timedelta(hours=thresholds["dispute_hours"])
    disputes = Dispute.objects.filter(respond_by__lte=until, state=Dispute.State.OPEN).count()
    if disputes:
        found.append(
            Finding(
                subject="disputes",
                title=Text("%(count)s dispute wants an answer soon", "%(count)s disputes want an answer soon", count=disputes),
                text=Text("Without an answer in time the money goes back."),
                figures={"disputes": disputes},
                link=list_url("billing.dispute", state__exact=Dispute.State.OPEN),
            )
        )
    return found


def gateway_webhooks(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Per gateway: verified webhooks that failed or nobody worked, and a wave of ones that could not be verified."""
    state = GatewayWebhook.State
    waits = Q(state__in=(state.RECEIVED, state.REPLAYED), received_at__lte=now - timedelta(minutes=thresholds["minutes"]))
    lately = Q(state=state.REJECTED, received_at__gt=now - timedelta(hours=1))
    failed = Q(state=state.FAILED, attempts__gte=thresholds["attempts"])
    rows = (
        GatewayWebhook.objects.filter(failed | waits | lately)
        .order_by()
        .values("gateway")
        .annotate(
            failed=Count("pk", filter=failed),
            waiting=Count("pk", filter=waits),
            rejected=Count("pk", filter=lately),
        )
    )
    names = dict(GatewayName.choices)
    found = []
    for row in rows.order_by("gateway"):
        if not row["failed"] and not row["waiting"] and row["rejected"] < thresholds["rejected_an_hour"]:
            continue
        found.append(
            Finding(
                subject=row["gateway"],
                title=Text("Webhooks of %(gateway)s are not worked", gateway=str(names.get(row["gateway"], row["gateway"]))),
                text=Text(
                    "Failed: %(failed)s. Waiting: %(waiting)s. Not verified within an hour: %(rejected)s.",
                    failed=row["failed"],
                    waiting=row["waiting"],
                    rejected=row["rejected"],
                ),
                figures={name: row[name] for name in ("failed", "waiting", "rejected")},
                link=list_url("billing.gatewaywebhook", gateway__exact=row["gateway"]),
            )
        )
    return found


def books(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """The last verification of the books found differences, or none has passed for too long."""
    last = BooksVerification.objects.order_by("-started_at").first()
    if last is not None and not last.passed:
        broken = [str(check.get("name", "")) for check in last.checks if check.get("differences")]
        return [
            Finding(
                subject="books",
                title=Text("The books do not agree"),
                text=Text(
                    "The last verification found differences: %(checks)s. Stop selling until it is explained.",
                    checks=[Text(name) for name in broken] or "?",
                ),
                level=Level.CRITICAL,
                step=2,
                figures={"checks": broken},
                link=change_url("billing.booksverification", last.pk),
            )
        ]
    # Without any, since the books have something to verify.
    since = last.finished_at if last else LedgerTransaction.objects.order_by("id").values_list("at", flat=True).first()
    if since is None or now - since <= timedelta(hours=thresholds["hours"]):
        return []
    hours = int((now - since).total_seconds()) // 3600
    return [
        Finding(
            subject="books",
            title=Text(
                "The books were not verified for %(hours)s hour", "The books were not verified for %(hours)s hours", hours=hours
            ),
            text=Text("Run the job verify-books now, and see why it did not run."),
            step=1,
            figures={"hours": hours},
            link=list_url("billing.booksverification"),
        )
    ]


def plan_margins(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Plans on sale that can lose money in a way that no operator has accepted."""
    risky = [plan for plan in public_economics(at=now) if plan.can_lose_money]
    accepted: dict[str, dict[str, object]] = {}
    if risky:
        events = Event.objects.filter(
            kind="plan.risk_accepted", object_type="plan", object_id__in=[str(plan.plan.pk) for plan in risky]
        )
        accepted = {event.object_id: event.after for event in events.order_by("at")}
    found = []
    for plan in risky:
        told = accepted.get(str(plan.plan.pk), {})
        figures = plan.figures()
        if told and all(told.get(name) == value for name, value in figures.items()):
            continue
        found.append(
            Finding(
                subject=plan.plan.code,
                title=Text("Plan %(plan)s can lose money", plan=plan.plan.code),
                text=plan.risk_texts,
                figures=figures,
                link=change_url("billing.plan", plan.plan.pk),
            )
        )
    return found


def losses(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """What no customer pays, of the last 24 hours, in USD: losses, and costs that nobody knows yet."""
    kinds = (LedgerAccount.Kind.OPERATOR_LOSS, LedgerAccount.Kind.UNKNOWN_COST)
    lost = LedgerEntry.objects.filter(
        ledger_account__kind__in=kinds, unit="USD", transaction__at__gt=now - timedelta(hours=24), transaction__at__lte=now
    ).aggregate(total=Sum("amount"))["total"] or Decimal(0)
    if lost <= thresholds["usd_a_day"]:
        return []
    return [
        Finding(
            subject="usd",
            title=Text("%(usd)s USD borne by us in a day", usd=Amount(lost.quantize(Decimal("0.01")))),
            text=Text("Calls cost more than was held, or nobody knows what they cost."),
            figures={"usd": str(lost)},
            link=reverse("admin:losses"),
        )
    ]
