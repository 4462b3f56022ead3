"""What the console's home and the account page show, each block in few queries."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db.models import Count, Q, Sum

from billing.accounts.models import Account, ApiKey
from billing.events.models import Event
from billing.ledger.models import Hold, LedgerAccount, LedgerEntry, Lot, UsageRecord, Wallet
from billing.subscriptions.models import Subscription
from routing.models import Budget

ZERO = Decimal(0)
LOSS_DAYS = 30


@dataclass(frozen=True, slots=True)
class HomeFigures:
    """The home's numbers. Days are UTC days; losses are those of the last `LOSS_DAYS` days."""

    accounts: int
    accounts_blocked: int
    calls_today: int
    calls_failed_today: int
    credits_today: Decimal
    cost_today_usd: Decimal
    daily_budget_usd: Decimal | None
    holds_open: int
    holds_overdue: int
    credits_held: Decimal
    operator_loss_usd: Decimal
    operator_loss_credits: Decimal
    unknown_cost_usd: Decimal

    @property
    def budget_share(self) -> int | None:
        """Percent of the daily budget that is spent, None without a budget."""
        if not self.daily_budget_usd:
            return None
        return int(self.cost_today_usd * 100 / self.daily_budget_usd)


def home_figures(*, now: datetime) -> HomeFigures:
    """All numbers of the home, in five queries over indexed ranges."""
    accounts = Account.objects.aggregate(total=Count("pk"), blocked=Count("pk", filter=Q(status=Account.Status.BLOCKED)))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    failed = Q(end__in=(UsageRecord.End.PROVIDER_ERROR, UsageRecord.End.PROCESS_DIED))
    calls = UsageRecord.objects.filter(started_at__gte=midnight).aggregate(
        total=Count("pk"),
        failed=Count("pk", filter=failed),
        credits=Sum("credits_charged"),
        cost=Sum("cost_usd"),
    )
    holds = Hold.objects.aggregate(
        total=Count("pk"), overdue=Count("pk", filter=Q(expires_at__lte=now)), credits=Sum("credits")
    )
    losses = {
        (row["ledger_account__kind"], row["unit"]): row["total"]
        for row in LedgerEntry.objects.filter(
            ledger_account__kind__in=(LedgerAccount.Kind.OPERATOR_LOSS, LedgerAccount.Kind.UNKNOWN_COST),
            transaction__at__gte=now - timedelta(days=LOSS_DAYS),
        )
        .order_by()
        .values("ledger_account__kind", "unit")
        .annotate(total=Sum("amount"))
    }
    budget = Budget.objects.filter(provider__isnull=True).values_list("daily_limit_usd", flat=True).first()
    return HomeFigures(
        accounts=accounts["total"],
        accounts_blocked=accounts["blocked"],
        calls_today=calls["total"],
        calls_failed_today=calls["failed"],
        credits_today=calls["credits"] or ZERO,
        cost_today_usd=calls["cost"] or ZERO,
        daily_budget_usd=budget,
        holds_open=holds["total"],
        holds_overdue=holds["overdue"],
        credits_held=holds["credits"] or ZERO,
        operator_loss_usd=losses.get((LedgerAccount.Kind.OPERATOR_LOSS, "USD"), ZERO),
        # A loss in credits lowers the account: what customers did not pay.
        operator_loss_credits=-losses.get((LedgerAccount.Kind.OPERATOR_LOSS, "credit"), ZERO),
        unknown_cost_usd=losses.get((LedgerAccount.Kind.UNKNOWN_COST, "USD"), ZERO),
    )


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event with the name of its account."""

    event: Event
    account_name: str


def home_events(*, limit: int = 12) -> list[EventLine]:
    """The last events, newest first, in two queries."""
    events = list(Event.objects.order_by("-at")[:limit])
    ids = {event.account_id for event in events if event.account_id is not None}
    names: dict[UUID | None, str] = dict(Account.objects.filter(pk__in=ids).values_list("pk", "name"))
    return [EventLine(event, names.get(event.account_id, "")) for event in events]


@dataclass(frozen=True, slots=True)
class AccountOverview:
    """An account with everything that hangs on it, newest first, each list cut to its head."""

    wallet: Wallet | None
    subscription: Subscription | None
    lots: list[Lot]
    keys: list[ApiKey]
    calls: list[UsageRecord]
    holds_open: int
    events: list[Event]
    members: list[str]


def account_overview(account: Account, *, limit: int = 10) -> AccountOverview:
    """What the account page tells, in eight queries whatever the account's size."""
    return AccountOverview(
        wallet=Wallet.objects.filter(account=account).first(),
        subscription=Subscription.objects.filter(account=account, state__in=Subscription.LIVE)
        .select_related("plan", "price")
        .first(),
        lots=list(
            Lot.objects.filter(wallet_id=account.pk, closed_at__isnull=True).order_by("priority", "expires_at", "created_at")[
                :limit
            ]
        ),
        keys=list(ApiKey.objects.filter(account=account).order_by("-created_at")[:limit]),
        calls=list(UsageRecord.objects.filter(account=account).order_by("-started_at")[:limit]),
        holds_open=Hold.objects.filter(account=account).count(),
        events=list(Event.objects.filter(account_id=account.pk).order_by("-at")[:limit]),
        members=[
            f"{membership.user.email} ({membership.get_role_display()})"
            for membership in account.memberships.select_related("user")[:limit]
        ],
    )
