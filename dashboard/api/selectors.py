"""Reading for the operators' JSON."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Count, F, Prefetch, Q, QuerySet, Sum

from billing.accounts.models import Account
from billing.accounts.selectors import accounts_matching
from billing.invoices.models import Invoice
from billing.ledger.models import Wallet
from billing.ledger.rollups import day_begin
from billing.payments.models import Payment
from billing.subscriptions.models import Subscription
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO

_ORDER: dict[str, tuple[Any, ...]] = {
    "created_at": ("created_at", "pk"),
    "-created_at": ("-created_at", "-pk"),
    "balance": (F("wallet__balance").asc(nulls_first=True), "pk"),
    "-balance": (F("wallet__balance").desc(nulls_last=True), "pk"),
    "name": ("name", "pk"),
}


def billing_users(
    *,
    q: str = "",
    status: str | None = None,
    plan: str | None = None,
    state: str | None = None,
    country: str | None = None,
    in_debt: bool | None = None,
    ordering: str = "-created_at",
) -> QuerySet[Account]:
    """Accounts that agree with every filter, with wallet and live subscription: three queries a page."""
    accounts = Account.objects.all()
    if q:
        accounts = accounts.filter(pk__in=accounts_matching(q).values("pk"))
    if status:
        accounts = accounts.filter(status=status)
    if country:
        accounts = accounts.filter(country=country.upper())
    if plan or state:
        subscriptions = Subscription.objects.filter(**({"plan__code": plan} if plan else {}))
        subscriptions = subscriptions.filter(state=state) if state else subscriptions.filter(state__in=Subscription.LIVE)
        accounts = accounts.filter(pk__in=subscriptions.values("account_id"))
    if in_debt is not None:
        debtors = Wallet.objects.filter(debt__gt=0).values("account_id")
        accounts = accounts.filter(pk__in=debtors) if in_debt else accounts.exclude(pk__in=debtors)
    live = Subscription.objects.filter(state__in=Subscription.LIVE).select_related("plan")
    related = accounts.select_related("wallet", "personal_of")
    return related.prefetch_related(Prefetch("subscriptions", live, to_attr="live_subscriptions")).order_by(*_ORDER[ordering])


def account_named(*, user_id: UUID | None = None, external_id: str | None = None, email: str | None = None) -> Account:
    """The account that an operator's program names; ApiError 404 `account_not_found` for none."""
    if user_id is not None:
        wanted, param = Q(pk=user_id) | Q(personal_of_id=user_id), "user_id"
    elif external_id is not None:
        wanted, param = Q(external_id=external_id), "external_id"
    else:
        wanted, param = Q(personal_of__email__iexact=email), "email"
    account = Account.objects.filter(wanted).first()
    if account is None:
        raise ApiError(404, "account_not_found", "There is no such account.", param=param)
    return account


def accounts_by_status() -> dict[str, int]:
    """How many accounts there are of every status."""
    counted = dict(Account.objects.order_by().values_list("status").annotate(number=Count("pk")))
    return {status: counted.get(status, 0) for status in Account.Status.values}


def wallet_sums() -> dict[str, Decimal]:
    """Credits of all wallets together: `balance`, `held`, `debt`."""
    sums = Wallet.objects.aggregate(balance=Sum("balance"), held=Sum("held"), debt=Sum("debt"))
    return {name: value or ZERO for name, value in sums.items()}


def payments_by_state(*, since: date, until: date) -> list[dict[str, Any]]:
    """Payments made on these UTC days, by state and currency: `state`, `currency`, `payments`, `amount`."""
    made = Payment.objects.filter(created_at__gte=day_begin(since), created_at__lt=day_begin(until + timedelta(days=1)))
    rows = made.order_by("state", "currency").values_list("state", "currency")
    names = ("state", "currency", "payments", "amount")
    return [dict(zip(names, row, strict=True)) for row in rows.annotate(number=Count("pk"), sum=Sum("amount"))]


def invoices_waiting(*, now: datetime) -> list[dict[str, Any]]:
    """Open invoices by currency: `currency`, how many are `open` and `overdue`, what is `due` on them."""
    waiting = Invoice.objects.filter(state=Invoice.State.OPEN, kind=Invoice.Kind.INVOICE).order_by("currency")
    rows = waiting.values_list("currency").annotate(
        number=Count("pk"),
        late=Count("pk", filter=Q(due_at__lt=now)),
        sum=Sum(F("total") - F("balance_applied") - F("amount_paid")),
    )
    return [dict(zip(("currency", "open", "overdue", "due"), row, strict=True)) for row in rows]
