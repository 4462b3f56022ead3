"""Plans, customers and money for tests of the lifecycle, made through the services that make them in the product."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db.models import Sum

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import Actor
from billing.invoices.models import Invoice
from billing.ledger.foundations import usage_partitions_ensure
from billing.ledger.models import Lot
from billing.ledger.services import call_settle, due_wallets_roll, hold_open
from billing.ledger.verification import books_verify
from billing.payments.manual import manual_confirm, manual_method, manual_payment_begin
from billing.payments.models import Payment
from billing.plans.models import Plan, PlanPrice
from billing.subscriptions import selectors
from billing.subscriptions.checkout import Begun, subscription_begin
from billing.subscriptions.models import Subscription
from iafactory.common import clock
from tests.billing.ledger.calls import call_item_for, hold_item_for

CUSTOMER = Actor(Event.ActorKind.USER, label="amina@example.com")
OPERATOR = Actor(Event.ActorKind.OPERATOR, label="operator@example.com")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def plan_make(code: str, amount: str | None = "3000", *, currency: str = "DZD", **fields: Any) -> Plan:
    """A public monthly plan with one price; None: without any."""
    values = {"family": "test", "name": code.title(), "visibility": "public", "billing_mode": "quota", **fields}
    overage = values.pop("overage_amount", None)
    plan = Plan.objects.create(code=code, **values)
    if amount is not None:
        price_make(plan, amount, currency=currency, overage_amount=overage)
    return plan


def price_make(plan: Plan, amount: str, *, currency: str = "DZD", at: datetime = LONG_AGO, **fields: Any) -> PlanPrice:
    return PlanPrice.objects.create(plan=plan, currency=currency, amount=Decimal(amount), effective_from=at, **fields)


def begin(account: Account, plan: Plan, **fields: Any) -> Begun:
    """A customer asks for a plan."""
    return subscription_begin(account=account, plan=plan, actor=CUSTOMER, **fields)


def subscribe(account: Account, plan: Plan, **fields: Any) -> Subscription:
    """A customer asks for a plan and pays at once."""
    begun = begin(account, plan, **fields)
    if begun.to_pay is not None:
        pay(begun.to_pay)
    return live(account)


def attempt(invoice: Invoice, purpose: str = "invoice") -> Payment:
    """A customer announces a transfer."""
    method = manual_method(account=invoice.account, currency=invoice.currency)
    return manual_payment_begin(invoice=invoice, method=method, purpose=purpose, actor=CUSTOMER)


def pay(invoice: Invoice, **fields: Any) -> Payment:
    """A customer's transfer arrives and an operator confirms it."""
    return manual_confirm(payment=attempt(invoice), actor=OPERATOR, reason="seen on the account", **fields)


def live(account: Account) -> Subscription:
    found = selectors.subscription_live(account)
    assert found is not None
    return found


def open_invoice(account: Account) -> Invoice:
    return Invoice.objects.get(account=account, state="open", kind="invoice")


def spend(account: Account, credits: str, *, subscription: Subscription | None = None) -> None:
    """A call that costs `credits` begins and ends."""
    usage_partitions_ensure(now=clock.now(), months_ahead=0)
    held = hold_item_for(account.pk, credits, subscription_id=subscription.pk if subscription else None)
    assert hold_open(held).verdict == "held"
    item = call_item_for(held, credits)
    item.usage.subscription_id = held.subscription_id
    assert call_settle(item).verdict == "settled"


def plan_credits(account: Account) -> Decimal:
    """Plan credits that are there now."""
    due_wallets_roll()
    alive = Lot.objects.filter(wallet=account.pk, kind="plan", booked_at__isnull=False, closed_at__isnull=True)
    return alive.aggregate(total=Sum("remaining"))["total"] or Decimal(0)


def wrong() -> list[Any]:
    """The rules of the books that do not hold."""
    return [(finding.check.name, finding.differences) for finding in books_verify() if finding.differences]


def event_kinds(subscription: Subscription) -> list[str]:
    told = Event.objects.filter(object_type="subscription", object_id=str(subscription.pk)).order_by("id")
    return [kind.removeprefix("subscription.") for kind in told.values_list("kind", flat=True)]
