"""A console with something in it."""

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from billing.accounts.models import Account, User
from billing.accounts.services import account_limits_set, api_key_create
from billing.events.services import SYSTEM
from billing.invoices.balance import money_balance_change
from billing.invoices.lines import LineItem
from billing.invoices.models import BillingProfile, Invoice, SellerProfile, TaxRate
from billing.invoices.services import invoice_draft, invoice_finalise
from billing.ledger.items import AnswerItem, CallItem, HoldItem, UsageItem
from billing.ledger.models import BooksVerification, DaySeal, UsageArchive
from billing.ledger.services import call_settle, credits_grant, hold_open
from billing.marketplace.models import MarketplacePlan
from billing.marketplace.services import account_follow
from billing.models import (
    AutoRenewalConsent,
    CatalogRecord,
    Coupon,
    CouponRedemption,
    CreditPack,
    Dispute,
    DunningNotice,
    DunningStep,
    FxRate,
    GatewayWebhook,
    JobRun,
    Lot,
    ManualMethod,
    Payment,
    PaymentProof,
    Plan,
    PlanPrice,
    PriceMove,
    Reconciliation,
    ReconciliationRow,
    Refund,
    SavedCard,
    ServicePrice,
    Subscription,
)
from billing.notices.models import CreditNotice, CustomerNotice, NoticePreference
from billing.subscriptions.onboarding import customer_register
from billing.webhooks.services import endpoint_create, endpoint_test
from dashboard.alerts.models import Alert, AlertDelivery, AlertRule, AlertTarget
from dashboard.impersonation.models import Impersonation
from dashboard.jobs.models import JobState
from iafactory.common import clock
from iafactory.common.crypto import encrypt
from iafactory.common.ids import uuid7
from ratelimit.blocks import network_block
from ratelimit.signals import signal_raise
from routing.models import (
    AiModel,
    Budget,
    GatewayLimits,
    HealthCheck,
    ModelPrice,
    ModelProfile,
    PlanRouting,
    PriceProposal,
    Provider,
    ProviderCredential,
)

SECRET = "sk-live-0123456789-never-shown-abcd"
PASSWORD = "correct horse battery"

PRICE = {
    "input_per_mtok": "2.5",
    "output_per_mtok": "10",
    "margin_multiplier": "1.8",
    "usd_per_credit": "0.01",
    "rounding": "exact",
    "charged": True,
    "cost_factor": "1",
}


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_superuser("operator@example.com", PASSWORD)


@pytest.fixture
def console(operator: User) -> Client:
    """A browser in which the operator is logged in."""
    client = Client()
    client.force_login(operator)
    return client


@pytest.fixture
def free_plan(db: None) -> Plan:
    return Plan.objects.create(
        code="free",
        family="chat",
        name="Free",
        interval=Plan.Interval.DAY,
        billing_mode=Plan.BillingMode.QUOTA,
        visibility=Plan.Visibility.PUBLIC,
        daily_limit=3,
    )


@pytest.fixture
def account(free_plan: Plan) -> Account:
    """A customer with 100 bought credits."""
    account = customer_register(email="sara@example.com", password=PASSWORD, name="Sara").account
    grant(account, Decimal(100))
    return account


def grant(account: Account, credits: Decimal) -> Lot:
    return credits_grant(
        account_id=account.pk,
        amount=credits,
        kind=Lot.Kind.PURCHASE,
        source="test",
        reason="test",
        actor=SYSTEM,
        idempotency_key=str(uuid7()),
    )


def hold(account: Account, *, credits: Decimal = Decimal(2), api_key_id: UUID | None = None) -> UUID:
    """An open hold."""
    now = clock.now()
    item = HoldItem(
        id=uuid7(),
        account_id=account.pk,
        api_key_id=api_key_id,
        credits=credits,
        worst_cost_usd=Decimal("0.02"),
        opened_at=now,
        expires_at=now + timedelta(minutes=5),
        endpoint="/v1/chat/completions",
        provider="groq",
        model="llama-3.3-70b",
    )
    assert hold_open(item).verdict == "held"
    return item.id


ANSWER = "the answer that stays secret"


def answer_of(account: Account, request_id: UUID, *, content: str | None = ANSWER) -> AnswerItem:
    """What is kept of a call under an idempotency key."""
    return AnswerItem(
        id=request_id,
        account_id=account.pk,
        api_key_id=None,
        key=f"order-{request_id}",
        body_hash="b" * 64,
        status=200,
        headers={"content-type": "application/json"},
        content=None if content is None else encrypt(content),
        expires_at=clock.now() + timedelta(hours=24),
    )


def call(
    account: Account,
    *,
    api_key_id: UUID | None = None,
    kept: bool = False,
    price: Decimal = Decimal("1.35"),
    request_id: UUID | None = None,
) -> UUID:
    """A settled call: 1,000 tokens in, 500 out, 0.0075 USD, 1.35 credits, 0.001 USD of it ours."""
    request_id = request_id or hold(account, api_key_id=api_key_id)
    now = clock.now()
    usage = UsageItem(
        id=request_id,
        started_at=now,
        finished_at=now,
        account_id=account.pk,
        api_key_id=api_key_id,
        endpoint="/v1/chat/completions",
        end="complete",
        plan="free",
        requested_model="auto",
        model="llama-3.3-70b",
        provider="groq",
        profile="groq/llama-3.3-70b",
        attempts=2,
        fallback=True,
        input_tokens=1000,
        output_tokens=500,
        list_cost_usd=Decimal("0.0075"),
        cost_usd=Decimal("0.0075"),
        credits_held=Decimal(2),
        credits_charged=price,
        price=PRICE,
        latency_ms=840,
        first_byte_ms=120,
    )
    item = CallItem(
        usage=usage,
        held=Decimal(2),
        charge=price,
        loss_usd=Decimal("0.001"),
        reason="test",
        answer=answer_of(account, request_id) if kept else None,
    )
    assert call_settle(item).verdict in ("settled", "late")
    return request_id


def catalogue_object(number: int) -> None:
    """One more of every catalogue model."""
    now = clock.now()
    plan = Plan.objects.create(code=f"plan-{number}", family="x", name=f"Plan {number}", billing_mode="credits")
    price = PlanPrice.objects.create(plan=plan, currency="DZD", amount=1590, effective_from=now)
    PriceMove.objects.create(price=price, reason="costs rose")
    CreditPack.objects.create(code=f"pack-{number}", name="Pack", credits=100, amount=1)
    ServicePrice.objects.create(code=f"service-{number}", name="RAG", credits=1)
    FxRate.objects.create(base="USD", quote="DZD", rate=230, effective_from=now - timedelta(days=number))
    CatalogRecord.objects.create(kind="plan", key=f"plan-{number}", loaded_at=now)
    provider = Provider.objects.create(
        slug=f"provider-{number}", name=f"Provider {number}", protocol="openai", base_url="https://api.example.com/v1"
    )
    ProviderCredential.objects.create(provider=provider, label="main", secret=SECRET, last_four="abcd")
    model = AiModel.objects.create(name=f"model-{number}")
    profile = ModelProfile.objects.create(slug=f"provider-{number}/model", provider=provider, model=model, upstream_model="m")
    ModelPrice.objects.create(profile=profile, effective_from=now, input_per_mtok=Decimal("2.5"))
    HealthCheck.objects.create(profile=profile, ok=False, failure="overloaded", detail="timeout")
    PriceProposal.objects.create(source="list.json")
    PlanRouting.objects.create(plan=plan, strategy="split", split={"groq": 100})
    Budget.objects.create(provider=provider, daily_limit_usd=50)
    GatewayLimits.objects.get_or_create(id=1, defaults={"requests_per_minute": 1000})
    Group.objects.create(name=f"Group {number}")
    DaySeal.objects.create(
        day=now.date() - timedelta(days=number), transactions=1, entries=2, content_hash="c" * 64, seal="5" * 64, sealed_at=now
    )
    interval, _ = IntervalSchedule.objects.get_or_create(every=3, period=IntervalSchedule.SECONDS)
    job = PeriodicTask.objects.create(name=f"job-{number}", task=f"billing.jobs.{number}", interval=interval)
    JobState.objects.create(task=job.task, state=JobState.Phase.DONE, started_at=now, runs=1)
    alerted(number)
    compared(number)
    archived(number)
    BooksVerification.objects.create(started_at=now, finished_at=now, passed=True, checks=[{"name": "x", "differences": []}])


def compared(number: int) -> None:
    """One more day compared with a gateway, and a difference."""
    now = clock.now()
    day = Reconciliation.objects.create(gateway="stripe", mode="test", day=now.date() - timedelta(days=number))
    ReconciliationRow.objects.create(
        reconciliation=day,
        gateway="stripe",
        mode="test",
        subject="payment",
        key=f"pi_{number}",
        outcome="missing",
        state="open",
        their_amount=10,
        their_currency="USD",
        checked_at=now,
    )


def archived(number: int) -> None:
    """One more month of the usage log in a file."""
    hashes = ("file_sha256", "content_sha256", "seal", "previous", "checkpoint")
    sums = ("file_bytes", "rows", "calls", "credits_charged", "list_cost_usd", "cost_usd", "digest")
    month = date(2020 + number // 12, number % 12 + 1, 1)
    UsageArchive.objects.create(
        month=month,
        file=f"{month}.csv.gz",
        sealed_day=month,
        written_at=clock.now(),
        **dict.fromkeys(hashes, "a" * 64),
        **dict.fromkeys(sums, 1),
    )


def alerted(number: int) -> None:
    """One more rule with an open alert, and a target that was told."""
    now = clock.now()
    target = AlertTarget.objects.create(name=f"target-{number}", address=f"json://:{SECRET}@hooks.example.com", service="JSON")
    rule = AlertRule.objects.create(code=f"rule-{number}", name=f"Rule {number}", kind="budget")
    rule.targets.add(target)
    alert = Alert.objects.create(
        rule=rule, subject="all:day", level="warning", title="Budget", link="/admin/", opened_at=now, last_seen_at=now
    )
    AlertDelivery.objects.create(
        alert=alert, target=target, occasion="opened", level="warning", title="Budget", created_at=now, next_attempt_at=now
    )


def customer(number: int) -> None:
    """One more customer with a key, credits, an ended and a running call."""
    account = customer_register(email=f"c{number}@example.com", password=PASSWORD, name=f"C {number}").account
    key, _ = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)
    grant(account, Decimal(10))
    call(account, api_key_id=key.pk, kept=True)
    hold(account, api_key_id=key.pk)
    account_limits_set(account=account, actor=SYSTEM, reason="spam", requests_per_minute=1)
    signal_raise(
        subject=f"key:{key.pk}", signal="key_networks", evidence={"networks": 12, "limit": 10, "examples": ["10.0.0.0/24"]}
    )
    network_block(network=f"192.0.2.{number}", reason="spam")
    outbound(account, number)
    inbound(account, number)
    billed(account, number)
    sold(account, number)
    looked_at(account)


def looked_at(account: Account) -> None:
    """An operator was logged in as the customer, and is not any more."""
    now = clock.now()
    owner = account.members.get()
    Impersonation.objects.create(
        operator=owner,
        user=owner,
        account=account,
        reason="asked",
        began_at=now - timedelta(hours=1),
        expires_at=now,
        ended_at=now,
        ending="expired",
    )


def sold(account: Account, number: int) -> None:
    """One more coupon with its use, a reminder, a run of a job, a way to pay by hand, a proof, a refund, a dispute."""
    now = clock.now()
    coupon = Coupon.objects.create(code=f"C{number}", name="Coupon", kind="percent", percent=10)
    subscription = Subscription.objects.get(account=account)
    CouponRedemption.objects.create(coupon=coupon, account=account, subscription=subscription)
    DunningStep.objects.create(offset_hours=number, template="renewal_overdue")
    DunningNotice.objects.create(
        subscription=subscription,
        invoice_id=Invoice.objects.filter(account=account).latest("created_at").pk,
        template="renewal_overdue",
    )
    JobRun.objects.create(job="renewal", started_at=now, updated_at=now, due=10, done=5)
    ManualMethod.objects.create(code=f"m-{number}", name="CCP", instructions="Pay.", currencies=["DZD"])
    payment = Payment.objects.create(
        account=account, purpose="topup", gateway="manual", method=f"m-{number}", amount=10, currency="DZD", state="pending"
    )
    PaymentProof.objects.create(
        payment=payment, file_name="a.png", content_type="image/png", content=b"x", size=1, sha256="a" * 64, uploaded_at=now
    )
    Refund.objects.create(payment=payment, amount=1, currency="DZD", reason="asked", requested_by="op", requested_at=now)
    Dispute.objects.create(payment=payment, gateway_dispute_id=f"d{number}", amount=1, currency="DZD", opened_at=now)


def billed(account: Account, number: int) -> None:
    """One more invoice with its parties, taxes, series and money in hand."""
    seller = SellerProfile.objects.create(
        code=f"seller-{number}", legal_name="IA Factory", is_default=number == 1, country="DZ"
    )
    TaxRate.objects.create(
        country="*",
        code=f"none-{number}",
        scope="not_registered",
        category=f"c{number}",
        label="None",
        valid_from=date(2026, 1, 1),
    )
    BillingProfile.objects.create(
        account=account, name=f"Company {number}", country="DZ", identifiers={"nif": "000916001122334"}
    )
    draft = invoice_draft(
        account=account,
        purpose="other",
        items=[LineItem(kind="plan", description="Pro", amount=Decimal(1190), category="c1")],
        currency="DZD",
    )
    Invoice.objects.filter(pk=draft.pk).update(seller=seller, seller_code=seller.code)
    draft.refresh_from_db()
    invoice_finalise(invoice=draft, actor=SYSTEM)
    money_balance_change(account=account, currency="DZD", amount=Decimal(5), key=f"gift-{number}", reason="Gift")


def inbound(account: Account, number: int) -> None:
    """One more payment at a gateway, and what the gateway told of it."""
    card = SavedCard.objects.create(
        account=account,
        gateway="stripe",
        mode="test",
        gateway_customer_id=f"cus_{number}",
        gateway_card_id=f"pm_{number}",
        brand="visa",
        last4="4242",
        exp_month=12,
        exp_year=2034,
        saved_at=clock.now(),
    )
    payment = Payment.objects.create(
        account=account, purpose="renew", gateway="stripe", mode="test", amount=10, currency="USD", saved_card=card
    )
    AutoRenewalConsent.objects.create(
        account=account, payment=payment, card=card, wording_version="2026-11-20", language="en", agreed_at=clock.now()
    )
    GatewayWebhook.objects.create(
        gateway="stripe",
        mode="test",
        state="processed",
        body=b'{"id": "evt_1", "data": {"object": {"id": "cs_1", "amount_total": 1000}}}',
        body_sha256="a" * 64,
        verified_at=clock.now(),
        event_id=f"evt_{number}",
        event_type="checkout.session.completed",
        truth={"id": "cs_1", "amount_total": 900},
        payment=payment,
    )


def outbound(account: Account, number: int) -> None:
    """One more endpoint with a delivery, a threshold, and a customer of the marketplace."""
    now = clock.now()
    url = f"https://hooks.example.com/{number}"
    endpoint, _ = endpoint_create(account=account, url=url, event_types=["key.created"], actor=SYSTEM)
    endpoint_test(endpoint=endpoint)
    CreditNotice.objects.create(account=account)
    NoticePreference.objects.create(account=account, kind="quota", threshold=50)
    CustomerNotice.objects.create(account=account, kind="quota", level="low", key=f"day-{number}", facts={"used": "4"})
    account_follow(external_user=f"user-{number}", subscription="BASIC", now=now)
    MarketplacePlan.objects.create(subscription=f"PLAN-{number}", plan=Plan.objects.get(code="free"))


@pytest.fixture
def populate(free_plan: Plan) -> Callable[[int, int], None]:
    """Adds the rows numbered `first` to `last` of every model."""

    def add(first: int, last: int) -> None:
        for number in range(first, last + 1):
            catalogue_object(number)
            customer(number)

    return add
