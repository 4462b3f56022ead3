"""Paying an invoice that was issued: by its address, again after a failure, and by the link that mails carry."""

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from freezegun.api import FrozenDateTimeFactory
from pytest_django.fixtures import Settings
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.accounts.services import session_begin
from billing.events.services import SYSTEM
from billing.invoices.delivery import invoice_deliver
from billing.invoices.models import Invoice
from billing.invoices.paying import pay_link, pay_link_read
from billing.invoices.services import invoice_void
from billing.models import DunningNotice, ManualMethod, Payment, PaymentProof
from billing.payments.auto_renewal import Agreement
from billing.payments.closing import invoice_checkouts_close
from billing.payments.open_invoices import PayWish, invoice_order
from billing.payments.polling import payment_poll
from billing.payments.renewal_charges import renewal_charge
from billing.payments.services import payment_succeeded
from billing.payments.wording import CONSENT_VERSION
from billing.subscriptions import dunning, jobs
from iafactory.common.errors import ApiError
from tests.billing.subscriptions.conftest import time
from tests.billing.subscriptions.selling import live, open_invoice, wrong
from tests.factories import account_make
from tests.fakes.server import browse

from .market import Market, in_threads
from .test_saved_cards import CHARGED, FEB, INVOICED

__all__ = ("time",)

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def market(time: FrozenDateTimeFactory, market_of: MarketOf) -> Market:
    """A customer whose next period is invoiced, in euros: PayPal takes them, and so does Stripe."""
    market = market_of("paypal")
    market.paid(market.subscribe())
    market_of("stripe")
    time.move_to(INVOICED)
    jobs.renewals_run()
    return market


@pytest.fixture
def invoice(market: Market) -> Invoice:
    return open_invoice(market.account)


@pytest.fixture
def client(market: Market) -> APIClient:
    return client_of(market.account)


def client_of(account: Account) -> APIClient:
    client = APIClient()
    assert account.personal_of is not None
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_begin(user=account.personal_of).access_token}")
    return client


def ask(client: APIClient, invoice: Invoice, what: str = "order", **body: Any) -> Any:
    return client.post(f"/api/payment/invoices/{invoice.number}/{what}", body, format="json")


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def money_of(account: Account, amount: str) -> Payment:
    """Money that came and found no invoice."""
    payment = Payment.objects.create(
        account=account, purpose="topup", gateway="stripe", mode="test", amount=Decimal(amount), currency="EUR"
    )
    return payment_succeeded(payment=payment, actor=SYSTEM)


# --- Order ---


def test_an_open_invoice_is_paid_at_the_preferred_gateway(market: Market, invoice: Invoice, client: APIClient) -> None:
    answer = ask(client, invoice)
    again = ask(client, invoice).json()
    payment = market.paid(Payment.objects.get(reference=answer.json()["payment"]["reference"]))

    invoice.refresh_from_db()
    body = answer.json()
    assert answer.status_code == 201
    assert (body["invoice"], body["state"], body["amount"], body["currency"]) == (invoice.number, "open", 19.9, "EUR")
    assert (body["payment"]["gateway"], body["checkout_url"]) == ("paypal", payment.checkout_url)
    assert again["payment"]["reference"] == payment.reference
    assert (payment.state, payment.purpose, invoice.state) == ("succeeded", "invoice", "paid")
    assert live(market.account).paid_through == invoice.period_end
    assert wrong() == []


def test_a_gateway_that_does_not_answer_is_followed_by_the_next(market: Market, invoice: Invoice, client: APIClient) -> None:
    market.fake.fail("busy", "/v2/checkout/orders", method="POST")

    body = ask(client, invoice).json()

    assert body["payment"]["gateway"] == "stripe"
    assert list(Payment.objects.filter(invoice=invoice).order_by("created_at", "id").values_list("gateway", "state")) == [
        ("paypal", "failed"),
        ("stripe", "pending"),
    ]


def test_when_no_gateway_answers_an_invoice_is_paid_by_hand_but_not_in_cash(
    market: Market, invoice: Invoice, client: APIClient, settings: Settings
) -> None:
    settings.PAYMENT_GATEWAYS = []
    ManualMethod.objects.update(currencies=["DZD", "EUR"], countries=[])

    body = ask(client, invoice).json()
    cash = ask(client, invoice, method=ManualMethod.objects.get(is_cash=True).code)

    assert (body["payment"]["gateway"], body["checkout_url"]) == ("manual", None)
    assert ManualMethod.objects.get(code=body["payment"]["method"]).is_cash is False
    assert code(cash) == (400, "invalid_request")


def test_without_any_way_to_pay_it_says_so(market: Market, invoice: Invoice, client: APIClient, settings: Settings) -> None:
    settings.PAYMENT_GATEWAYS = []
    ManualMethod.objects.update(is_enabled=False)

    answers = [code(ask(client, invoice)), code(ask(client, invoice, gateway="manual"))]

    assert answers == [(503, "gateways_unavailable"), (409, "no_gateway")]


def test_money_that_came_before_is_counted_and_the_rest_asked_for(market: Market, invoice: Invoice, client: APIClient) -> None:
    money_of(market.account, "5")

    body = ask(client, invoice).json()
    market.paid(Payment.objects.get(reference=body["payment"]["reference"]))

    invoice.refresh_from_db()
    assert (body["amount"], invoice.balance_applied, invoice.amount_paid) == (14.9, Decimal(5), Decimal("14.90"))
    assert invoice.state == "paid"
    assert wrong() == []


def test_money_that_came_before_returns_to_hand_with_a_voided_invoice(
    market: Market, invoice: Invoice, client: APIClient
) -> None:
    money_of(market.account, "5")
    ask(client, invoice)

    invoice_void(invoice=invoice, reason="wrong", actor=SYSTEM)

    assert market.account.money_balances.get(currency="EUR").amount == Decimal(5)
    assert wrong() == []


def test_money_that_suffices_pays_at_once(market: Market, invoice: Invoice, client: APIClient) -> None:
    before = money_of(market.account, "25")

    body = ask(client, invoice).json()
    again = ask(client, invoice)

    before.refresh_from_db()
    assert (body["state"], body["payment"], body["amount"]) == ("paid", None, 0)
    assert (before.applied_amount, before.unapplied_amount) == (Decimal("19.90"), Decimal("5.10"))
    assert live(market.account).paid_through == invoice.period_end
    assert code(again) == (409, "invoice_paid")
    assert wrong() == []


def test_voided_invoices_and_credit_notes_are_not_paid(market: Market, invoice: Invoice, client: APIClient) -> None:
    invoice_void(invoice=invoice, reason="wrong", actor=SYSTEM)

    answers = [code(ask(client, invoice, what)) for what in ("order", "retry")]
    link = client.get(f"/api/payment/invoices/{invoice.number}/link")

    assert answers == [(409, "invoice_void"), (409, "nothing_to_retry")]
    assert code(link) == (409, "invoice_void")


@pytest.mark.parametrize("what", ["order", "retry", "link"])
def test_somebody_elses_invoice_is_nobodys(market: Market, invoice: Invoice, what: str) -> None:
    stranger = client_of(account_make())
    address = f"/api/payment/invoices/{invoice.number}/{what}"

    answer = stranger.get(address) if what == "link" else stranger.post(address, {}, format="json")

    assert code(answer) == (404, "not_found")
    assert Payment.objects.filter(invoice=invoice).count() == 0


def test_two_who_order_at_once_get_one_checkout(market: Market, invoice: Invoice) -> None:
    market.fake.fail("slow", "/v2/checkout/orders", method="POST", seconds=0.3)
    got: list[Payment | None] = []

    in_threads([lambda: got.append(invoice_order(invoice=invoice, wish=PayWish(), actor=SYSTEM)) for _one in range(2)])

    assert len({payment.checkout_id for payment in got if payment is not None}) == 1
    assert Payment.objects.filter(invoice=invoice).count() == 1


def test_a_key_stands_for_one_payment(market: Market, invoice: Invoice, client: APIClient) -> None:
    used = Payment.objects.get(state="succeeded")
    Payment.objects.filter(pk=used.pk).update(idempotency_key="mine")
    address = f"/api/payment/invoices/{invoice.number}/order"

    another = client.post(address, {}, format="json", headers={"Idempotency-Key": "mine"})
    first = client.post(address, {}, format="json", headers={"Idempotency-Key": "yours"}).json()
    second = client.post(address, {"gateway": "stripe"}, format="json", headers={"Idempotency-Key": "yours"}).json()

    assert code(another) == (422, "idempotency_mismatch")
    assert first["payment"]["reference"] == second["payment"]["reference"]


# --- Again, and in another way ---


def test_another_gateway_closes_what_was_open(market_of: MarketOf, market: Market, invoice: Invoice, client: APIClient) -> None:
    first = ask(client, invoice, gateway="stripe").json()["payment"]["reference"]

    second = ask(client, invoice, gateway="paypal").json()["payment"]

    assert second["gateway"] == "paypal"
    assert Payment.objects.get(reference=first).state == "canceled"


def test_retry_opens_a_new_checkout_after_one_that_failed(market: Market, invoice: Invoice, client: APIClient) -> None:
    nothing = ask(client, invoice, "retry")
    first = ask(client, invoice, gateway="stripe").json()["payment"]["reference"]

    second = ask(client, invoice, "retry", gateway="stripe").json()["payment"]["reference"]
    third = ask(client, invoice, "retry").json()["payment"]

    assert code(nothing) == (409, "nothing_to_retry")
    assert first != second
    assert Payment.objects.get(reference=second).state == "canceled"
    assert (third["gateway"], third["state"]) == ("paypal", "pending")


def test_a_checkout_that_was_paid_meanwhile_is_booked_instead_of_tried_again(
    time: FrozenDateTimeFactory, market_of: MarketOf
) -> None:
    market = market_of("stripe")
    market.paid(market.subscribe())
    time.move_to(INVOICED)
    jobs.renewals_run()
    invoice, client = open_invoice(market.account), client_of(market.account)
    first = Payment.objects.get(reference=ask(client, invoice).json()["payment"]["reference"])
    market.act(first)

    again = ask(client, invoice, "retry")

    first.refresh_from_db()
    assert code(again) == (409, "invoice_paid")
    assert (first.state, len(market.fake.charges)) == ("succeeded", 2)


def test_paying_in_one_way_closes_the_others(time: FrozenDateTimeFactory, market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.paid(market.subscribe())
    time.move_to(INVOICED)
    jobs.renewals_run()
    invoice = open_invoice(market.account)
    left, paid = [market.open(invoice, Payment.Purpose.INVOICE) for _one in range(2)]
    market.paid(paid)

    closed = invoice_checkouts_close(invoice_id=invoice.pk)

    left.refresh_from_db()
    assert (closed, left.state, market.fake.sessions[left.checkout_id]["status"]) == (1, "canceled", "expired")


def test_what_was_left_open_the_poll_closes(time: FrozenDateTimeFactory, market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.paid(market.subscribe())
    time.move_to(INVOICED)
    jobs.renewals_run()
    invoice = open_invoice(market.account)
    left, paid = [market.open(invoice, Payment.Purpose.INVOICE) for _one in range(2)]
    market.paid(paid)

    polled = payment_poll(payment_id=left.pk)

    assert (polled.state, market.fake.sessions[left.checkout_id]["status"]) == ("canceled", "expired")


def test_nobody_pays_while_the_saved_card_is_charged(time: FrozenDateTimeFactory, market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.paid(market.subscribe(agreement=Agreement(CONSENT_VERSION, "en")))
    time.move_to(INVOICED)
    jobs.renewals_run()
    invoice, client = open_invoice(market.account), client_of(market.account)
    time.move_to(CHARGED)
    market.fake.fail("drop_before", "/v1/payment_intents", method="POST")
    renewal_charge(invoice_id=invoice.pk)
    client = client_of(market.account)

    meanwhile = ask(client, invoice)
    by_link = Client().post(pay_link(invoice).url.removeprefix(market.url))
    time.move_to(CHARGED + timedelta(minutes=31))
    afterwards = ask(client_of(market.account), invoice)

    assert code(meanwhile) == (409, "charge_in_progress")
    assert (by_link.status_code, re.findall(r'data-state="(\w+)"', by_link.content.decode())) == (409, ["charging"])
    assert afterwards.status_code == 201


# --- The link ---


def test_the_link_shows_the_amount_and_leads_to_payment(market: Market, invoice: Invoice, client: APIClient) -> None:
    link = client.get(f"/api/payment/invoices/{invoice.number}/link").json()
    browser = Client()
    path = link["url"].removeprefix(market.url)

    page = browser.get(path)
    before = Payment.objects.filter(invoice=invoice).count()
    pressed = browser.post(path)
    payment = Payment.objects.get(invoice=invoice)
    market.paid(payment)
    paid = browser.get(path)

    text = page.content.decode()
    assert link["url"].startswith(f"{market.url}/payment/invoice/")
    assert (link["expires_at"], link["amount"], link["currency"]) == ("2026-03-27T12:00:00Z", 19.9, "EUR")
    assert (page.status_code, before) == (200, 0)
    # Or browsers would not follow the button to the gateway.
    assert "form-action 'self' https:;" in page["Content-Security-Policy"] + ";"
    assert str(invoice.number) in text
    assert "19.90" in text or "19,90" in text
    assert market.account.name not in text
    assert (pressed.status_code, pressed["Location"]) == (303, payment.checkout_url)
    assert re.findall(r'data-state="(\w+)"', paid.content.decode()) == ["paid"]


def test_the_pages_button_needs_its_own_form(market: Market, invoice: Invoice) -> None:
    browser = Client(enforce_csrf_checks=True)
    path = pay_link(invoice).url.removeprefix(market.url)

    strange = browser.post(path)

    assert (strange.status_code, Payment.objects.filter(invoice=invoice).count()) == (403, 0)


def test_a_link_ends_after_thirty_days(market: Market, invoice: Invoice, time: FrozenDateTimeFactory) -> None:
    link = pay_link(invoice)
    path = link.url.removeprefix(market.url)
    token = path.rpartition("/")[2]
    time.move_to(link.expires_at - timedelta(seconds=1))
    in_time = pay_link_read(token)
    time.move_to(link.expires_at)

    too_late = (pay_link_read(token), browse("GET", link.url).status)

    assert (in_time, too_late) == (invoice.pk, (None, 404))


@pytest.mark.parametrize("token", ["x", "a:b:c", "W10:1vUXXX:abc", "%00", "https:%2F%2Fevil.example"])
def test_what_nobody_signed_opens_nothing(market: Market, token: str) -> None:
    page = browse("GET", f"{market.url}/payment/invoice/{token}")

    assert page.status == 404


def test_a_link_of_a_voided_invoice_shows_nothing_to_pay(market: Market, invoice: Invoice) -> None:
    path = pay_link(invoice).url.removeprefix(market.url)
    invoice_void(invoice=invoice, reason="wrong", actor=SYSTEM)

    shown, pressed = Client().get(path), Client().post(path)

    states = [re.findall(r'data-state="(\w+)"', page.content.decode()) for page in (shown, pressed)]
    assert states == [["closed"], ["closed"]]
    assert Payment.objects.filter(invoice=invoice).count() == 0


def test_the_page_says_how_to_pay_by_hand(market: Market, invoice: Invoice, settings: Settings) -> None:
    settings.PAYMENT_GATEWAYS = []
    ManualMethod.objects.filter(is_cash=False).update(currencies=["DZD", "EUR"], countries=[])

    page = Client().post(pay_link(invoice).url.removeprefix(market.url)).content.decode()

    payment = Payment.objects.get(invoice=invoice)
    assert re.findall(r'data-state="(\w+)"', page) == ["by_hand"]
    assert payment.reference in page


def test_the_page_says_that_no_gateway_answers(market: Market, invoice: Invoice, settings: Settings) -> None:
    settings.PAYMENT_GATEWAYS = []
    ManualMethod.objects.update(is_enabled=False)

    page = Client().post(pay_link(invoice).url.removeprefix(market.url))

    assert page.status_code == 503


# --- Mails ---


@pytest.mark.parametrize("language", ["en", "fr", "ar"])
def test_invoice_and_reminder_bring_a_link_before_the_period_begins(
    market: Market, invoice: Invoice, time: FrozenDateTimeFactory, language: str
) -> None:
    Account.objects.filter(pk=market.account.pk).update(language=language)
    mail.outbox.clear()

    invoice_deliver(invoice_id=invoice.pk)
    dunning.dunning_run()
    dunning.dunning_mail_send(notice_id=DunningNotice.objects.get().pk)

    links = [re.findall(rf"{market.url}/payment/invoice/(\S+)", message.body) for message in mail.outbox]
    assert [pay_link_read(token) for [token] in links] == [invoice.pk, invoice.pk]
    assert INVOICED < FEB


def test_who_agreed_is_told_that_the_card_will_be_charged(time: FrozenDateTimeFactory, market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.paid(market.subscribe(agreement=Agreement(CONSENT_VERSION, "en")))
    time.move_to(INVOICED)
    jobs.renewals_run()
    invoice = open_invoice(market.account)
    mail.outbox.clear()

    invoice_deliver(invoice_id=invoice.pk)
    dunning.dunning_run()
    dunning.dunning_mail_send(notice_id=DunningNotice.objects.get().pk)

    bodies = [message.body for message in mail.outbox]
    assert len(bodies) == 2
    assert ["visa •••• 4242" in body for body in bodies] == [True, True]
    # An hour before noon UTC, in Algiers.
    assert "28 Feb 2026, 12:00" in bodies[1]


def test_a_proof_that_waits_keeps_the_card_from_being_charged(time: FrozenDateTimeFactory, market_of: MarketOf) -> None:
    market = market_of("stripe")
    ManualMethod.objects.update(currencies=["DZD", "USD"], countries=[])
    market.paid(market.subscribe(agreement=Agreement(CONSENT_VERSION, "en")))
    time.move_to(INVOICED)
    jobs.renewals_run()
    invoice = open_invoice(market.account)
    by_hand = invoice_order(invoice=invoice, wish=PayWish(method="bank_transfer"), actor=SYSTEM)
    assert by_hand is not None
    PaymentProof.objects.create(
        payment=by_hand,
        file_name="a.pdf",
        content_type="application/pdf",
        content=b"%PDF-",
        size=5,
        sha256="a" * 64,
        uploaded_at=by_hand.created_at,
    )
    time.move_to(CHARGED)

    assert renewal_charge(invoice_id=invoice.pk) is None


def test_a_gateway_that_does_not_take_the_money_is_refused(market: Market, invoice: Invoice) -> None:
    with pytest.raises(ApiError) as refused:
        invoice_order(invoice=invoice, wish=PayWish(gateway="chargily"), actor=SYSTEM)

    assert (refused.value.status, refused.value.param) == (400, "gateway")
    assert Payment.objects.filter(invoice=invoice).count() == 0
