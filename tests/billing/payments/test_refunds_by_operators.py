"""Refunds and disputes where operators ask for them: the console, and `POST /api/payment/invoices/{number}/refund`."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from billing.accounts.models import User
from billing.accounts.services import operator_key_create
from billing.events.services import SYSTEM
from billing.models import Dispute, Payment, Refund
from billing.payments.refunds import refund_ask, refund_confirm, refund_request
from tests.billing.subscriptions.selling import OPERATOR, wrong

from .market import Market
from .test_console_webhooks import operator

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_broker_and_no_limit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = None
    monkeypatch.setattr("billing.payments.refunds.task_enqueue", lambda *arguments: None)


def address(payment: Payment) -> str:
    assert payment.invoice is not None
    payment.invoice.refresh_from_db()
    return f"/api/payment/invoices/{payment.invoice.number}/refund"


def staff(*permissions: str, email: str = "staff@example.com") -> User:
    user = User.objects.create_user(email, "correct horse battery", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def session(user: User) -> dict[str, str]:
    login = {"email": user.email, "password": "correct horse battery"}
    token = Client().post("/api/auth/login", data=login, content_type="application/json").json()["access_token"]
    return {"authorization": f"Bearer {token}"}


def post(paid: Payment, headers: dict[str, str], **body: Any) -> Any:
    wish = {"reason": "not what was wanted"} | body
    return Client().post(address(paid), data=wish, content_type="application/json", headers=headers)


def test_an_operator_refunds_an_invoice_by_session_and_by_key(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    clerk = staff("add_refund")
    _key, secret = operator_key_create(user=clerk, name="job", actor=SYSTEM)

    part = post(payment, session(clerk), amount="5")
    rest = post(payment, {"x-admin-key": secret})

    told = part.json()
    assert (part.status_code, rest.status_code) == (201, 201)
    assert (told["state"], told["amount"], told["credits"], told["by_hand"]) == ("requested", 5, 263.819096, False)
    assert (rest.json()["amount"], market.credits()) == (14.9, 0)
    refund_ask(refund_id=told["id"])
    refund_ask(refund_id=rest.json()["id"])
    assert set(Refund.objects.values_list("state", flat=True)) == {"succeeded"}
    assert wrong() == []


def test_a_request_repeated_with_its_key_is_one_refund(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    headers = session(staff("add_refund")) | {"idempotency-key": "refund-7"}

    answers = [post(payment, headers).json() for _ in range(3)]

    assert answers[0] == answers[1] == answers[2]
    assert Refund.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"amount": "20"}, 409, "refund_too_large"),
        ({"amount": "0.001"}, 400, "invalid_request"),
        ({"amount": "-1"}, 400, "invalid_request"),
        ({"reason": ""}, 400, "invalid_request"),
        ({"payment": "paother"}, 409, "payment_not_refundable"),
    ],
)
def test_what_cannot_be_refunded_moves_nothing(market_of: MarketOf, body: dict[str, str], status: int, code: str) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())

    answer = post(payment, session(staff("add_refund")), **body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (Refund.objects.count(), market.credits()) == (0, Decimal(1050))


def test_customers_and_operators_without_the_right_refund_nothing(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    customer = market.account.personal_of
    assert customer is not None

    answers = [post(payment, session(customer)), post(payment, session(staff("change_refund"))), post(payment, {})]

    assert [answer.status_code for answer in answers] == [403, 403, 401]
    assert (Refund.objects.count(), market.credits()) == (0, Decimal(1050))


def test_in_the_console_a_payment_is_refunded_approved_and_confirmed(market_of: MarketOf, settings: Settings) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = Decimal(1)
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    assert payment.invoice is not None
    payment.invoice.refresh_from_db()
    first, second = operator("view_payment", "view_refund", "add_refund", "change_refund"), Client()
    second.force_login(staff("view_refund", "change_refund"))
    page = f"/admin/billing/payment/{payment.pk}/do/refund/"

    shown = first.get(page).content.decode()
    wish = {"part": str(payment.invoice.pk), "amount": "1295", "reason": "half of it"}
    told = first.post(page, wish).content.decode()
    done = first.post(page, wish | {"_confirm": "1"})
    refund = Refund.objects.get()
    deed = f"/admin/billing/refund/{refund.pk}/do"
    alone = first.post(f"{deed}/approve/", {"reason": "my own"}).content.decode()
    early = first.post(f"{deed}/confirm/", {"reason": "sent"})
    second.post(f"{deed}/approve/", {"reason": "agreed"})
    first.post(f"{deed}/confirm/", {"reason": "transfer 17"})

    refund.refresh_from_db()
    assert f"{payment.invoice.number}: 2590 DZD" in shown
    assert "<dt>Goes back</dt><dd>1295 DZD</dd>" in told
    assert "<dt>Credits that leave the account</dt><dd>525</dd>" in told
    assert (done.status_code, early.status_code) == (302, 302)
    assert "Another operator than the one who asked has to approve it." in alone
    assert (refund.state, refund.amount, refund.requested_by) == ("succeeded", Decimal(1295), "operator@example.com")
    assert (refund.confirmed_by, market.credits()) == ("staff@example.com", Decimal(525))
    assert first.get(f"/admin/billing/refund/{refund.pk}/change/").status_code == 200
    assert wrong() == []


def test_in_the_console_a_dispute_is_noted_and_lost(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    client = operator("view_payment", "view_dispute", "add_dispute", "change_dispute")

    noted = {"gateway_dispute_id": "CB-1", "amount": "2590", "reason": "letter of the bank"}
    client.post(f"/admin/billing/payment/{payment.pk}/do/dispute/", noted)
    dispute = Dispute.objects.get()
    client.post(f"/admin/billing/dispute/{dispute.pk}/do/lost/", {"reason": "second letter"})

    dispute.refresh_from_db()
    assert (dispute.state, dispute.amount, dispute.reason) == ("lost", Decimal(2590), "letter of the bank")
    assert market.credits() == 0
    assert client.get(f"/admin/billing/dispute/{dispute.pk}/change/").status_code == 200


@pytest.mark.parametrize("deed", ["refund", "dispute"])
def test_the_console_asks_for_the_right(market_of: MarketOf, deed: str) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())

    refused = operator("view_payment", "change_payment").post(
        f"/admin/billing/payment/{payment.pk}/do/{deed}/", {"reason": "x"}
    )

    assert (refused.status_code, Refund.objects.count(), Dispute.objects.count()) == (403, 0, 0)


def test_the_list_of_refunds_needs_as_many_queries_for_ten_as_for_one(
    market_of: MarketOf, django_assert_num_queries: Any
) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    client = operator("view_refund")
    refund_confirm(
        refund=refund_request(payment=payment, amount=Decimal(1), reason="x", actor=OPERATOR), actor=OPERATOR, reason="y"
    )
    with CaptureQueriesContext(connection) as one:
        client.get("/admin/billing/refund/")
    for _ in range(9):
        refund_request(payment=payment, amount=Decimal(1), reason="x", actor=OPERATOR)

    with django_assert_num_queries(len(one)):
        client.get("/admin/billing/refund/")
