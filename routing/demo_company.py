"""A company with a past: accounts that registered over months, subscribed, renewed, paid, topped up and made calls.

Everything but the calls goes through the services that do it in the product, with the clock moved; the calls are written in
bulk, day by day, between what the services wrote before and after them. The same seed makes the same company, up to ids.
"""

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from celery import current_app
from django.db import connection
from django.db.models import F

from billing.accounts.models import Account, ApiKey
from billing.accounts.services import api_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM, Actor
from billing.invoices.models import Invoice
from billing.ledger.demo_calls import DemoCaller, DemoRoute, demo_day_write, demo_routes_set
from billing.ledger.models import DaySeal, Wallet
from billing.ledger.rollups import day_begin, usage_days_sum
from billing.ledger.seals import days_seal
from billing.ledger.services import due_wallets_roll
from billing.payments.manual import manual_confirm, manual_method, manual_payment_begin
from billing.payments.models import Payment
from billing.payments.topup import topup_draft
from billing.plans.models import CreditPack, Plan
from billing.subscriptions.checkout import subscription_begin
from billing.subscriptions.models import Subscription
from billing.subscriptions.onboarding import customer_register
from billing.subscriptions.renewal import subscription_advance, subscriptions_due
from billing.subscriptions.services import subscription_switch
from iafactory.common import clock

from .models import ModelProfile

# Shipped plans, how many of a hundred accounts begin with each, and how much one of them calls, relative to the others.
PLANS = {
    "free": (22, 1),
    "student": (26, 40),
    "pro": (18, 60),
    "credits-starter": (10, 6),
    "credits-pro": (8, 25),
    "credits-business": (4, 100),
    "payg": (12, 30),
}
# Customers on credits packs buy another one below this.
TOPUP_BELOW = Decimal(300)
# So many of a hundred customers never pay a renewal; the others pay within days.
NEVER_RENEW = 4
PAY_TODAY = 60
ROUTES = 12
FIRST_NAMES = ("Amina", "Karim", "Lina", "Yacine", "Sofia", "Rayan", "Meriem", "Nadir", "Chloé", "Omar", "Priya", "Youssef")
LAST_NAMES = ("Haddad", "Benali", "Cherif", "Martin", "Mansouri", "Sharma", "Boudiaf", "Laurent", "Saïdi", "Kaci", "Dubois")
LANGUAGES = ("fr", "fr", "ar", "en")
OPERATOR = Actor(Event.ActorKind.OPERATOR, label="demo operator")


class DemoRefused(Exception):
    """This database is no place for a made-up past; the message says why."""


@dataclass(slots=True)
class Customer:
    """One account of the company and how it behaves. `account` and `keys` are there from the day it joins."""

    number: int
    joins: date
    plan: str
    weight: int
    renews: bool
    account: Account | None = None
    keys: list[UUID] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Company:
    """What was made."""

    accounts: int
    calls: int
    invoices: int
    payments: int
    first_day: date


def company_make(
    *, usage_rows: int, accounts: int, months: int, seed: int, now: datetime, tell: Callable[[str], None]
) -> Company:
    """Make the company's past up to `now`, then sum up and seal its days. Raises DemoRefused before anything is written.

    `tell` hears of the progress.
    """
    if DaySeal.objects.exists() or Invoice.objects.exclude(state=Invoice.State.DRAFT).exists():
        raise DemoRefused("The books of this database have closed days or issued invoices: a past does not fit in before them.")
    if not Plan.objects.filter(code="free").exists():
        raise DemoRefused("There are no plans: run load_catalog first.")
    broker = current_app.conf.broker_url
    # Nothing is mailed or rendered for a past that was not.
    current_app.conf.broker_url = "memory://"
    try:
        return _make(usage_rows, accounts, months, seed, now, tell)
    finally:
        current_app.conf.broker_url = broker


def _make(usage_rows: int, accounts: int, months: int, seed: int, now: datetime, tell: Callable[[str], None]) -> Company:
    today = now.astimezone(UTC).date()
    first_day = today - timedelta(days=30 * months)
    dice = random.Random(seed)  # noqa: S311  a made-up company, not a secret
    with connection.cursor() as cursor:
        # A crash loses the whole of it anyway.
        cursor.execute("SET synchronous_commit = off")
    customers = _customers(accounts, first_day, today, dice)
    _partitions_make(first_day, today)
    routes = _routes()
    demo_routes_set(routes)
    written = wanted = 0
    for day, share in _shares(first_day, today, usage_rows):
        with clock.moved_to(day_begin(day) + timedelta(minutes=1)):
            _business_day(customers, day, dice)
        # Calls for which credits did not suffice are made up for on the days after.
        wanted += share
        callers = _callers(customers, wanted - written)
        written += demo_day_write(callers, day=day, until=now - timedelta(minutes=1), seed=str(seed), routes=len(routes))
        if day.day == 1 or day == today:
            tell(f"{day}: {written:,} calls")
    rest = [caller for caller in _callers(customers, usage_rows - written, paid_by_credits=False) if not caller.credits]
    written += demo_day_write(rest, day=today - timedelta(days=1), until=now, seed=f"{seed} rest", routes=len(routes))
    Invoice.objects.filter(issued_at__isnull=False, mailed_at__isnull=True).update(mailed_at=F("issued_at"))
    ApiKey.objects.filter(pk__in=[key for customer in customers for key in customer.keys]).update(last_used_at=now)
    tell("summing up and sealing the days")
    while len(usage_days_sum(now=now)) > 3:
        pass
    days_seal(now=now)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return Company(
        accounts=accounts,
        calls=written,
        invoices=Invoice.objects.exclude(state=Invoice.State.DRAFT).count(),
        payments=Payment.objects.filter(state=Payment.State.SUCCEEDED).count(),
        first_day=first_day,
    )


def _customers(accounts: int, first_day: date, today: date, dice: random.Random) -> list[Customer]:
    """Half of them were there in the first month; the others came evenly until yesterday."""
    days = (today - first_day).days
    codes = list(PLANS)
    customers = []
    for number in range(accounts):
        plan = dice.choices(codes, weights=[PLANS[code][0] for code in codes])[0] if number else "pro"
        joins = first_day + timedelta(days=dice.randrange(min(30, days)) if number % 2 else dice.randrange(days))
        weight = PLANS[plan][1] * dice.randint(20, 200)
        customers.append(
            Customer(number, first_day if number == 0 else joins, plan, weight, dice.randrange(100) >= NEVER_RENEW)
        )
    return customers


def _shares(first_day: date, today: date, usage_rows: int) -> list[tuple[date, int]]:
    """How many calls each day has: three times as many at the end as at the beginning, fewer on Fridays and Saturdays."""
    days = [first_day + timedelta(days=number) for number in range((today - first_day).days + 1)]
    weights = [(len(days) + 2 * number) * (6 if day.weekday() in (4, 5) else 10) for number, day in enumerate(days)]
    return list(zip(days, _divided(usage_rows, weights), strict=True))


def _divided(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts by weight; they add up to it."""
    whole, parts, given, seen = sum(weights), [], 0, 0
    for weight in weights:
        seen += weight
        parts.append(total * seen // whole - given)
        given += parts[-1]
    return parts


def _partitions_make(first_day: date, today: date) -> None:
    month = first_day.replace(day=1)
    while month <= today:
        with connection.cursor() as cursor:
            cursor.execute("SELECT usage_partition_ensure(%s)", [day_begin(month)])
        month = (month + timedelta(days=32)).replace(day=1)


def _routes() -> list[DemoRoute]:
    """Chat routes of the catalogue with their newest list price, one per profile."""
    routes = []
    profiles = ModelProfile.objects.filter(enabled=True, model__mode="chat").select_related("provider", "model")
    for profile in profiles.order_by("-provider__priority", "slug"):
        price = profile.prices.order_by("-effective_from").first()
        if price is None or price.input_per_mtok is None or price.output_per_mtok is None:
            continue
        routes.append(
            DemoRoute(
                provider=profile.provider.slug,
                model=profile.model.name,
                profile=profile.slug,
                input_usd=price.input_per_mtok,
                output_usd=price.output_per_mtok,
                cost_factor=profile.cost_factor,
                latency_ms=profile.typical_latency_ms,
                price={
                    "price_id": str(price.pk),
                    "input_per_mtok": f"{price.input_per_mtok:f}",
                    "output_per_mtok": f"{price.output_per_mtok:f}",
                },
            )
        )
    if not routes:
        raise DemoRefused("There are no models with a price: run load_catalog first.")
    return routes[:ROUTES]


def _business_day(customers: Sequence[Customer], day: date, dice: random.Random) -> None:
    """What came before the day's calls: credits expired, customers joined, renewed and paid, bought packs."""
    due_wallets_roll(limit=1_000_000)
    for customer in customers:
        if customer.joins == day:
            _join(customer, dice)
    for subscription_id in sorted(subscriptions_due(now=clock.now())):
        subscription_advance(subscription=Subscription(pk=subscription_id))
    renewing = {customer.account.pk: customer.renews for customer in customers if customer.account is not None}
    for invoice in Invoice.objects.filter(state=Invoice.State.OPEN, kind=Invoice.Kind.INVOICE).order_by("sequence"):
        if renewing.get(invoice.account_id) and dice.randrange(100) < PAY_TODAY:
            _pay(invoice)
    low = set(
        Wallet.objects.annotate(free=F("balance") - F("held")).filter(free__lt=TOPUP_BELOW).values_list("account_id", flat=True)
    )
    for customer in customers:
        if customer.plan == "payg" and customer.account is not None and customer.account.pk in low:
            _top_up(customer.account)


def _join(customer: Customer, dice: random.Random) -> None:
    registration = customer_register(
        email=f"demo-{customer.number:04}@example.com",
        password=secrets.token_urlsafe(15),
        name=f"{FIRST_NAMES[customer.number % 12]} {LAST_NAMES[customer.number * 7 % 11]} {customer.number}",
        language=dice.choice(LANGUAGES),
        actor=SYSTEM,
    )
    account = customer.account = registration.account
    for name in ("Application", "Laptop", "Staging")[: dice.randint(1, 3)]:
        key, _ = api_key_create(account=account, created_by=registration.user, name=name, actor=SYSTEM)
        customer.keys.append(key.pk)
    plan = Plan.objects.get(code=customer.plan)
    if customer.plan == "payg":
        subscription_switch(account=account, plan=plan, actor=SYSTEM, reason="Demo")
        _top_up(account)
    elif customer.plan != "free":
        begun = subscription_begin(account=account, plan=plan, actor=SYSTEM, trial=False)
        if begun.to_pay is not None:
            _pay(begun.to_pay)


def _top_up(account: Account) -> None:
    pack = CreditPack.objects.order_by("credits")[1:2].first() or CreditPack.objects.order_by("credits").first()
    if pack is not None:
        _pay(topup_draft(account=account, pack=pack), purpose=Payment.Purpose.TOPUP)


def _pay(invoice: Invoice, purpose: str = Payment.Purpose.INVOICE) -> None:
    """By transfer, seen on the operator's account the same day."""
    method = manual_method(account=invoice.account, currency=invoice.currency)
    payment = manual_payment_begin(invoice=invoice, method=method, purpose=purpose, actor=SYSTEM)
    manual_confirm(payment=payment, actor=OPERATOR, reason="Seen on the account")


def _callers(customers: Sequence[Customer], calls: int, *, paid_by_credits: bool = True) -> list[DemoCaller]:
    """Who makes the day's calls, on the plan that runs now."""
    live = {
        subscription.account_id: subscription
        for subscription in Subscription.objects.filter(state__in=Subscription.LIVE).select_related("plan")
    }
    there = []
    for customer in customers:
        subscription = live.get(customer.account.pk) if customer.account is not None else None
        if subscription is not None:
            on_credits = subscription.plan.billing_mode != Plan.BillingMode.QUOTA
            if paid_by_credits or not on_credits:
                there.append((customer, subscription, on_credits))
    if not there or calls <= 0:
        return []
    parts = _divided(calls, [customer.weight for customer, _, _ in there])
    return [
        DemoCaller(
            number=customer.number,
            account_id=subscription.account_id,
            keys=customer.keys,
            subscription_id=subscription.pk,
            plan=subscription.plan.code,
            credits=on_credits,
            whole_credits=subscription.plan.rounding == Plan.Rounding.WHOLE,
            calls=part,
        )
        for (customer, subscription, on_credits), part in zip(there, parts, strict=True)
        if part
    ]
