"""Cards that customers let us keep: agreed to at a checkout, charged at renewals, taken back. The gateway is Stripe's fake."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone
from freezegun.api import FrozenDateTimeFactory
from pytest_django.fixtures import Settings
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.accounts.services import session_begin
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.invoices.models import Invoice
from billing.models import AutoRenewalConsent, DunningNotice, Payment, SavedCard
from billing.payments.auto_renewal import (
    Agreement,
    agreement_read,
    auto_renewal_withdraw,
    card_detach,
    card_remove,
    cards_sweep,
)
from billing.payments.disputes import dispute_open
from billing.payments.polling import payment_poll, payments_due
from billing.payments.renewal_charges import ATTEMPTS, charges_due, renewal_charge
from billing.payments.services import payment_succeeded
from billing.payments.wording import CONSENT_VERSION, CONSENTS
from billing.subscriptions import dunning, jobs
from billing.subscriptions.changes import subscription_cancel
from tests.billing.subscriptions.conftest import START, time
from tests.billing.subscriptions.selling import live, open_invoice, wrong
from tests.factories import account_make
from tests.fakes.stripe import FakeStripe

from .market import Market, in_threads

__all__ = ("time",)

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)

AGREED = Agreement(CONSENT_VERSION, "en")
# A month after 31 January.
FEB = datetime(2026, 2, 28, 12, tzinfo=UTC)
MARCH = datetime(2026, 3, 31, 12, tzinfo=UTC)
INVOICED = FEB - timedelta(hours=72)
CHARGED = FEB - timedelta(hours=1)


@pytest.fixture
def market(time: FrozenDateTimeFactory, market_of: MarketOf) -> Market:
    return market_of("stripe")


def subscribed(market: Market, **options: Any) -> Payment:
    """The customer pays for the plan, and agrees to automatic renewal."""
    return market.paid(market.subscribe(**{"agreement": AGREED} | options))


def invoiced(market: Market, time: FrozenDateTimeFactory, *, charge_at: datetime = CHARGED) -> Invoice:
    """The next period's invoice; then it is time to charge it."""
    time.move_to(INVOICED)
    jobs.renewals_run()
    time.move_to(charge_at)
    return open_invoice(market.account)


def charges(market: Market) -> list[Any]:
    """Requests that asked the gateway for money without the customer."""
    fake: FakeStripe = market.fake
    return [call for call in fake.calls("POST", "/v1/payment_intents") if call.path == "/v1/payment_intents"]


def money_taken(market: Market) -> int:
    """How often the gateway really took money, the first payment included."""
    return len(market.fake.charges)


def polled(payment: Payment) -> Payment:
    return payment_poll(payment_id=payment.pk)


def mails_sent() -> list[str]:
    """The templates whose mails went out now, in order."""
    told = []
    for notice in DunningNotice.objects.filter(sent_at__isnull=True, skipped=False).order_by("id"):
        dunning.dunning_mail_send(notice_id=notice.pk)
        told.append(notice.template)
    return told


def client_of(account: Account) -> APIClient:
    client = APIClient()
    assert account.personal_of is not None
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_begin(user=account.personal_of).access_token}")
    return client


# --- Agreeing ---


def test_an_agreed_card_is_kept_once_its_payment_succeeded(market: Market) -> None:
    payment = market.subscribe(agreement=AGREED)
    before = (SavedCard.objects.count(), AutoRenewalConsent.objects.get().card)

    market.paid(payment)
    market.deliver()

    card, consent = SavedCard.objects.get(), AutoRenewalConsent.objects.get()
    assert before == (0, None)
    assert (card.brand, card.last4, card.exp_month, card.exp_year, str(card)) == ("visa", "4242", 12, 2034, "visa •••• 4242")
    assert (card.account, card.gateway, card.mode) == (market.account, "stripe", "test")
    assert {card.gateway_card_id: card.gateway_customer_id} == market.fake.cards
    assert (consent.card, consent.payment, consent.wording_version, consent.agreed_at) == (
        card,
        payment,
        CONSENT_VERSION,
        START,
    )
    assert [event.kind for event in Event.objects.filter(kind__regex="^(card|auto_renewal)").order_by("id")] == [
        "auto_renewal.agreed",
        "card.saved",
        "auto_renewal.began",
    ]


def test_who_did_not_agree_is_never_charged(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market, agreement=None)
    invoice = invoiced(market, time, charge_at=FEB)

    due, tried = charges_due(now=FEB), renewal_charge(invoice_id=invoice.pk)

    assert (due, tried, SavedCard.objects.count(), market.fake.cards) == ([], None, 0, {})
    assert (charges(market), Payment.objects.count()) == ([], 1)


def test_a_card_whose_owner_thought_better_of_it_before_paying_is_not_kept(market: Market) -> None:
    payment = market.subscribe(agreement=AGREED)
    auto_renewal_withdraw(account=market.account, actor=SYSTEM)

    market.paid(payment)
    detached = cards_sweep()

    card = SavedCard.objects.get()
    assert (payment.state, detached, market.fake.cards) == ("succeeded", 1, {})
    assert card.removed_at is not None
    assert card.detached_at is not None


@pytest.mark.parametrize("options", [{"gateway": "chargily"}, {"method": "bank_transfer"}])
def test_what_cannot_keep_a_card_says_so(market_of: MarketOf, options: dict[str, str]) -> None:
    market = market_of("chargily")
    body = {"auto_renewal": True, "auto_renewal_wording": CONSENT_VERSION} | options

    answer = client_of(market.account).post(f"/api/payment/subscribe/{market.plan.code}", body, format="json")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "auto_renewal")
    assert Payment.objects.count() == 0


def test_agreeing_at_the_checkout_through_the_api(market: Market) -> None:
    client = client_of(market.account)
    address = f"/api/payment/subscribe/{market.plan.code}"
    body = {"gateway": "stripe", "currency": "USD", "auto_renewal": True}

    old = client.post(address, body | {"auto_renewal_wording": "2019-01-01"}, format="json")
    none = Payment.objects.count()
    agreed = client.post(
        address, body | {"auto_renewal_wording": CONSENT_VERSION, "auto_renewal_language": "fr"}, format="json"
    )
    market.paid(Payment.objects.get())
    methods = client.get("/api/payment/methods?language=ar").json()

    consent = AutoRenewalConsent.objects.get()
    assert (old.status_code, old.json()["error"]["param"], none) == (400, "auto_renewal_wording", 0)
    assert agreed.status_code == 201
    assert (consent.language, consent.agreed_by) == ("fr", str(market.account.personal_of))
    [card] = methods["cards"]
    assert (card["brand"], card["last4"], card["exp_month"], card["exp_year"], card["expired"]) == (
        "visa",
        "4242",
        12,
        2034,
        False,
    )
    assert methods["auto_renewal"] == {
        "enabled": True,
        "card": card["id"],
        "agreed_at": "2026-01-31T12:00:00Z",
        "wording": CONSENT_VERSION,
    }
    assert methods["consent"] == {"version": CONSENT_VERSION, "language": "ar", "text": CONSENTS[CONSENT_VERSION]["ar"]}
    assert market.fake.next_card["last4"] in str(methods)
    assert "pm_" not in str(methods)


# --- Charging ---


def test_a_renewal_is_charged_an_hour_before_its_period_once(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    invoice = invoiced(market, time, charge_at=CHARGED - timedelta(seconds=1))
    too_early = (charges_due(now=timezone.now()), renewal_charge(invoice_id=invoice.pk))
    time.move_to(CHARGED)

    due = charges_due(now=CHARGED)
    payment = renewal_charge(invoice_id=invoice.pk)
    again = renewal_charge(invoice_id=invoice.pk)
    time.move_to(FEB)
    jobs.renewals_run()

    invoice.refresh_from_db()
    assert (too_early, due, again) == (([], None), [invoice.pk], None)
    assert payment is not None
    assert (payment.state, payment.purpose, payment.received_amount) == ("succeeded", "renew", Decimal("19.90"))
    assert (invoice.state, live(market.account).state, live(market.account).current_period_end) == ("paid", "active", MARCH)
    assert money_taken(market) == 2
    [asked] = charges(market)
    assert asked.headers["idempotency-key"] == f"charge-{payment.reference}"
    assert (asked.form["amount"], asked.form["currency"], asked.form["off_session"]) == ("1990", "usd", "true")
    assert wrong() == []


def test_webhooks_polls_and_jobs_at_once_have_one_effect(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    market.fake.send_at_once = True

    in_threads([lambda: renewal_charge(invoice_id=invoice.pk) for _job in range(2)])
    market.fake.send_at_once = False
    [payment] = Payment.objects.filter(saved_card__isnull=False)
    told = [delivery for _status, delivery in market.fake.sent if delivery.kind == "payment_intent.succeeded"]
    told += [delivery for delivery in market.fake.outbox if delivery.kind == "payment_intent.succeeded"]
    in_threads(
        [lambda: renewal_charge(invoice_id=invoice.pk) for _job in range(2)]
        + [lambda: polled(payment)] * 2
        + [lambda: market.send(told[:1])] * 20
    )
    market.queue.work(threads=20, times=20)

    invoice.refresh_from_db()
    assert (invoice.state, invoice.amount_paid, money_taken(market)) == ("paid", Decimal("19.90"), 2)
    assert list(Payment.objects.filter(saved_card__isnull=False).values_list("state", "unapplied_amount")) == [
        ("succeeded", Decimal(0))
    ]
    assert Event.objects.filter(kind="subscription.next_period_paid").count() == 1
    assert market.lots() == 2
    assert wrong() == []


@pytest.mark.parametrize("workers", [2, 8])
def test_jobs_at_once_while_the_answer_is_slow_charge_once(market: Market, time: FrozenDateTimeFactory, workers: int) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    market.fake.fail("slow", "/v1/payment_intents", method="POST", seconds=0.5)

    in_threads([lambda: renewal_charge(invoice_id=invoice.pk)] * workers)

    assert (len(charges(market)), money_taken(market)) == (1, 2)


@pytest.mark.parametrize("fault", ["drop_after", "error_after", "garbage"])
def test_a_charge_whose_answer_was_lost_is_found_not_repeated(market: Market, time: FrozenDateTimeFactory, fault: str) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    market.fake.fail(fault, "/v1/payment_intents", method="POST")

    payment = renewal_charge(invoice_id=invoice.pk)
    again = renewal_charge(invoice_id=invoice.pk)
    time.tick(timedelta(minutes=2))
    waiting = payments_due()
    assert payment is not None
    found = polled(payment)

    invoice.refresh_from_db()
    assert (payment.state, again, waiting) == ("unknown", None, [payment.pk])
    assert (found.state, invoice.state, len(charges(market)), money_taken(market)) == ("succeeded", "paid", 1, 2)


@pytest.mark.parametrize(("fault", "state"), [("drop_before", "unknown"), ("error", "unknown"), ("busy", "created")])
def test_a_charge_that_was_never_made_is_sent_again_with_its_key(
    market: Market, time: FrozenDateTimeFactory, fault: str, state: str
) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    market.fake.fail(fault, "/v1/payment_intents", method="POST")

    payment = renewal_charge(invoice_id=invoice.pk)
    time.tick(timedelta(minutes=2))
    assert payment is not None
    sent = polled(payment)

    assert (payment.state, sent.state, sent.pk, money_taken(market)) == (state, "succeeded", payment.pk, 2)
    assert [call.headers["idempotency-key"] for call in charges(market)] == [f"charge-{payment.reference}"]


def test_a_charge_made_long_ago_is_found_after_the_gateway_forgot_its_key(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    market.fake.fail("drop_after", "/v1/payment_intents", method="POST")
    payment = renewal_charge(invoice_id=invoice.pk)
    market.fake.forget_keys()
    time.tick(timedelta(hours=24))
    jobs.renewals_run()

    before_it_is_known = renewal_charge(invoice_id=invoice.pk)
    assert payment is not None
    found = polled(payment)

    assert (before_it_is_known, found.state, money_taken(market)) == (None, "succeeded", 2)
    assert live(market.account).state == "active"
    assert wrong() == []


def test_a_charge_never_made_is_not_repeated_when_its_key_means_nothing_any_more(
    market: Market, time: FrozenDateTimeFactory
) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    market.fake.fail("drop_before", "/v1/payment_intents", method="POST")
    payment = renewal_charge(invoice_id=invoice.pk)
    market.fake.forget_keys()
    time.tick(timedelta(hours=24))

    assert payment is not None
    ended = polled(payment)
    second = renewal_charge(invoice_id=invoice.pk)

    assert (ended.state, ended.failure_code, charges(market)[:-1]) == ("failed", "not_made", [])
    assert second is not None
    assert (second.state, second.reference == payment.reference, money_taken(market)) == ("succeeded", False, 2)


def test_a_slow_charge_waits_for_its_webhook(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    market.fake.slow_cards.add(SavedCard.objects.get().gateway_card_id)
    invoice = invoiced(market, time)

    payment = renewal_charge(invoice_id=invoice.pk)
    again = renewal_charge(invoice_id=invoice.pk)
    assert payment is not None
    waiting = (payment.state, payment.gateway_payment_id != "", again)
    market.fake.settle_charge(payment.gateway_payment_id, succeeded=True)
    market.deliver()

    payment.refresh_from_db()
    assert waiting == ("pending", True, None)
    assert (payment.state, money_taken(market)) == ("succeeded", 2)


# --- Refusals ---


def test_a_declined_card_is_told_with_a_link_and_tried_again_a_day_later(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    card = SavedCard.objects.get()
    market.fake.declining_cards.add(card.gateway_card_id)
    invoice = invoiced(market, time)

    payment = renewal_charge(invoice_id=invoice.pk)
    market.deliver()
    told = mails_sent()
    time.tick(timedelta(hours=24) - timedelta(seconds=1))
    too_early = renewal_charge(invoice_id=invoice.pk)
    market.fake.declining_cards.clear()
    jobs.renewals_run()
    time.tick(timedelta(seconds=1))
    second = renewal_charge(invoice_id=invoice.pk)

    assert payment is not None
    assert (payment.state, payment.failure_code, told, too_early) == (
        "failed",
        "insufficient_funds",
        ["renewal_card_failed"],
        None,
    )
    assert "visa •••• 4242" in mail.outbox[-1].body
    assert f"{market.url}/payment/invoice/" in mail.outbox[-1].body
    assert second is not None
    assert (second.state, live(market.account).state, money_taken(market)) == ("succeeded", "active", 2)
    assert wrong() == []


def test_a_card_that_goes_on_being_declined_is_tried_so_often_and_no_more(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    market.fake.declining_cards.add(SavedCard.objects.get().gateway_card_id)
    invoice = invoiced(market, time)

    renewal_charge(invoice_id=invoice.pk)
    jobs.renewals_run()
    tried = []
    for _day in range(6):
        time.tick(timedelta(hours=24))
        tried.append(renewal_charge(invoice_id=invoice.pk) is not None)
        jobs.renewals_run()

    invoice.refresh_from_db()
    assert ATTEMPTS == 4
    # The grace time of 3 days, 2 hours and 24 minutes ends after the fourth.
    assert tried == [True, True, True, False, False, False]
    assert (invoice.state, market.live_plan(), money_taken(market)) == ("void", "free", 1)
    assert DunningNotice.objects.filter(template="renewal_card_failed").count() == 1


@pytest.mark.parametrize(
    ("refusal", "template"),
    [
        (("authentication_required", "authentication_required"), "renewal_card_confirm"),
        (("expired_card", "expired_card"), "renewal_card_failed"),
        (("card_declined", "lost_card"), "renewal_card_failed"),
    ],
)
def test_what_only_the_cardholder_can_mend_is_not_tried_again(
    market: Market, time: FrozenDateTimeFactory, refusal: tuple[str, str], template: str
) -> None:
    subscribed(market)
    market.fake.refusals[SavedCard.objects.get().gateway_card_id] = refusal
    invoice = invoiced(market, time)

    renewal_charge(invoice_id=invoice.pk)
    told = mails_sent()
    time.tick(timedelta(hours=24))
    jobs.renewals_run()
    again = renewal_charge(invoice_id=invoice.pk)

    assert (told, again, len(charges(market)), charges_due(now=timezone.now())) == ([template], None, 1, [])


def test_an_expired_card_is_not_charged_and_its_owner_told_once(market: Market, time: FrozenDateTimeFactory) -> None:
    market.fake.next_card |= {"exp_month": 1, "exp_year": 2026}
    subscribed(market)
    invoice = invoiced(market, time)

    tried = [renewal_charge(invoice_id=invoice.pk) for _run in range(3)]

    assert (tried, charges(market), mails_sent()) == ([None] * 3, [], ["renewal_card_expired"])
    assert "has expired" in mail.outbox[-1].body


def test_a_card_that_the_gateway_does_not_know_any_more_is_removed(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    market.fake.cards.clear()
    invoice = invoiced(market, time)

    payment = renewal_charge(invoice_id=invoice.pk)
    again = renewal_charge(invoice_id=invoice.pk)

    assert payment is not None
    assert (payment.state, payment.failure_code, again) == ("failed", "resource_missing", None)
    assert SavedCard.objects.get().removed_at is not None
    assert AutoRenewalConsent.objects.get().withdrawn_at is not None
    assert mails_sent() == ["renewal_card_failed"]


def test_wrong_credentials_are_not_the_customers_fault(market: Market, time: FrozenDateTimeFactory, settings: Settings) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    settings.STRIPE_SECRET_KEY = "sk_test_wrong"

    payment = renewal_charge(invoice_id=invoice.pk)
    settings.STRIPE_SECRET_KEY = market.fake.secret_key
    time.tick(timedelta(minutes=2))
    assert payment is not None
    later = polled(payment)

    assert (payment.state, mails_sent(), later.state) == ("created", [], "succeeded")


# --- Others pay, others decide ---


def test_who_is_paying_at_a_gateway_just_now_is_not_charged(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    checkout = market.open(invoice, Payment.Purpose.INVOICE)

    while_paying = renewal_charge(invoice_id=invoice.pk)
    time.tick(timedelta(minutes=31))
    afterwards = renewal_charge(invoice_id=invoice.pk)

    checkout.refresh_from_db()
    assert while_paying is None
    assert afterwards is not None
    assert (afterwards.state, checkout.state) == ("succeeded", "canceled")
    assert market.fake.sessions[checkout.checkout_id]["status"] == "expired"


def test_a_checkout_paid_in_the_meantime_keeps_the_card_from_being_charged(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    checkout = market.open(invoice, Payment.Purpose.INVOICE)
    market.act(checkout)
    time.tick(timedelta(minutes=31))

    tried = renewal_charge(invoice_id=invoice.pk)

    checkout.refresh_from_db()
    assert (tried, checkout.state, charges(market), money_taken(market)) == (None, "succeeded", [], 2)


def test_what_the_account_brought_before_is_taken_off(market: Market, time: FrozenDateTimeFactory) -> None:
    first = subscribed(market)
    invoice = invoiced(market, time)
    surplus = Payment.objects.create(
        account=market.account, purpose="topup", gateway="stripe", mode="test", amount=Decimal(5), currency="USD"
    )
    payment_succeeded(payment=surplus, actor=SYSTEM)

    payment = renewal_charge(invoice_id=invoice.pk)

    invoice.refresh_from_db()
    assert payment is not None
    assert (first.amount, payment.amount, invoice.balance_applied) == (Decimal("19.90"), Decimal("14.90"), Decimal(5))
    assert (payment.state, invoice.state) == ("succeeded", "paid")
    assert wrong() == []


def test_a_canceled_plan_is_not_charged(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    invoice = invoiced(market, time)

    subscription_cancel(subscription=live(market.account), actor=SYSTEM)
    tried = renewal_charge(invoice_id=invoice.pk)

    assert (tried, charges(market)) == (None, [])


def test_consent_taken_back_while_the_outcome_is_unknown_sends_nothing_again(
    market: Market, time: FrozenDateTimeFactory
) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    market.fake.fail("drop_before", "/v1/payment_intents", method="POST")
    payment = renewal_charge(invoice_id=invoice.pk)

    auto_renewal_withdraw(account=market.account, actor=SYSTEM)
    time.tick(timedelta(minutes=2))
    assert payment is not None
    ended = polled(payment)

    assert (ended.state, ended.failure_code, charges(market)) == ("failed", "not_made", [])


def test_who_contests_a_charge_is_not_charged_again(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    payment = renewal_charge(invoice_id=invoiced(market, time).pk)
    assert payment is not None

    dispute_open(payment=payment, gateway_dispute_id="du_1", actor=SYSTEM)

    assert AutoRenewalConsent.objects.get().withdrawn_reason == f"Payment {payment.reference} is contested"


# --- Taking back ---


def test_a_card_taken_back_is_detached_and_never_charged(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    card, client = SavedCard.objects.get(), client_of(market.account)

    gone = client.delete(f"/api/payment/methods/{card.pk}")
    again = client.delete(f"/api/payment/methods/{card.pk}")
    detached = card_detach(card_id=card.pk)
    tried = renewal_charge(invoice_id=invoice.pk)
    methods = client.get("/api/payment/methods").json()

    assert (gone.status_code, again.status_code, detached, market.fake.cards, tried) == (204, 404, True, {}, None)
    assert (methods["cards"], methods["auto_renewal"]["enabled"]) == ([], False)
    assert charges(market) == []


def test_a_card_that_its_gateway_did_not_forget_is_swept(market: Market) -> None:
    subscribed(market)
    card = SavedCard.objects.get()
    market.fake.fail("error", "/detach", times=2)

    card_remove(card=card, actor=SYSTEM, reason="asked")
    first, second, third = card_detach(card_id=card.pk), cards_sweep(), cards_sweep()

    assert (first, second, third, cards_sweep(), market.fake.cards) == (False, 0, 1, 0, {})


def test_cards_of_a_closed_account_are_forgotten(market: Market) -> None:
    subscribed(market)
    Account.objects.filter(pk=market.account.pk).update(status=Account.Status.CLOSED)

    swept = cards_sweep()

    assert (swept, market.fake.cards) == (1, {})
    assert AutoRenewalConsent.objects.get().withdrawn_at is not None


def test_automatic_renewal_is_switched_off_and_on(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    invoice = invoiced(market, time)
    client = client_of(market.account)

    off = client.put("/api/payment/auto-renewal", {"enabled": False}, format="json").json()
    while_off = renewal_charge(invoice_id=invoice.pk)
    unread = client.put("/api/payment/auto-renewal", {"enabled": True}, format="json")
    on = client.put("/api/payment/auto-renewal", {"enabled": True, "wording": CONSENT_VERSION}, format="json").json()
    charged = renewal_charge(invoice_id=invoice.pk)

    assert (off["auto_renewal"]["enabled"], len(off["cards"]), while_off) == (False, 1, None)
    assert (unread.status_code, unread.json()["error"]["param"]) == (400, "wording")
    assert on["auto_renewal"]["enabled"] is True
    assert charged is not None
    assert AutoRenewalConsent.objects.filter(withdrawn_at__isnull=True).count() == 1
    assert AutoRenewalConsent.objects.count() == 2


def test_another_card_takes_the_place_of_the_first(market: Market, time: FrozenDateTimeFactory) -> None:
    subscribed(market)
    first = SavedCard.objects.get()
    market.fake.declining_cards.add(first.gateway_card_id)
    invoice = invoiced(market, time)
    renewal_charge(invoice_id=invoice.pk)
    market.fake.next_card |= {"brand": "mastercard", "last4": "4444"}

    market.paid(market.open(invoice, Payment.Purpose.INVOICE, agreement=AGREED))

    invoice.refresh_from_db()
    in_force = AutoRenewalConsent.objects.get(withdrawn_at__isnull=True)
    assert (invoice.state, str(in_force.card)) == ("paid", "mastercard •••• 4444")
    assert SavedCard.objects.filter(removed_at__isnull=True).count() == 2


def test_nobody_reaches_anothers_card(market: Market) -> None:
    subscribed(market)
    card, stranger = SavedCard.objects.get(), client_of(account_make())

    removed = stranger.delete(f"/api/payment/methods/{card.pk}")
    body = {"enabled": True, "card": str(card.pk), "wording": CONSENT_VERSION}
    used = stranger.put("/api/payment/auto-renewal", body, format="json")
    own = stranger.put("/api/payment/auto-renewal", {"enabled": True, "wording": CONSENT_VERSION}, format="json")

    card.refresh_from_db()
    assert (removed.status_code, used.status_code, card.removed_at) == (404, 404, None)
    assert (own.status_code, own.json()["error"]["code"]) == (409, "no_saved_card")


def test_an_expired_card_is_not_agreed_to(market: Market) -> None:
    market.fake.next_card |= {"exp_month": 12, "exp_year": 2025}
    subscribed(market)
    auto_renewal_withdraw(account=market.account, actor=SYSTEM)

    answer = client_of(market.account).put(
        "/api/payment/auto-renewal", {"enabled": True, "wording": CONSENT_VERSION}, format="json"
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "card_expired")


def test_an_unspoken_language_is_answered_in_english() -> None:
    agreement = agreement_read(wording_version=CONSENT_VERSION, language="de")

    assert agreement == Agreement(CONSENT_VERSION, "en")
