"""Paying by hand through the API: subscribe, top up, proof, confirmation; what others must not see."""

import base64
from decimal import Decimal
from typing import Any

import pytest
from freezegun.api import FrozenDateTimeFactory
from rest_framework.test import APIClient

from billing.accounts.models import Account, Membership, User
from billing.accounts.services import session_begin
from billing.events.services import SYSTEM
from billing.invoices.models import Invoice
from billing.ledger.models import Lot
from billing.payments.manual import (
    manual_confirm,
    manual_method,
    manual_payment_begin,
    manual_payments_expire,
    manual_reject,
    proof_add,
)
from billing.payments.models import Payment, PaymentProof
from billing.plans.models import CreditPack, FxRate
from billing.subscriptions.models import Subscription
from iafactory.common.errors import ApiError
from tests.billing.subscriptions.conftest import customer, shop, time
from tests.billing.subscriptions.selling import LONG_AGO, OPERATOR, begin, live, plan_make, spend, subscribe, wrong
from tests.factories import account_make

__all__ = ("customer", "shop", "time")

PNG = b"\x89PNG\r\n\x1a\n" + b"picture of a slip"


def client_of(account: Account) -> APIClient:
    """A client with the session of the account's owner."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_begin(user=account.personal_of).access_token}")
    return client


def post(client: APIClient, address: str, expected: int = 201, **body: Any) -> dict[str, Any]:
    response = client.post(address, body, format="json")
    assert response.status_code == expected, response.content
    answer: dict[str, Any] = response.json()
    return answer


def test_subscribe_proof_confirmation_plan(customer: Account) -> None:
    plan_make("pro", "2590")
    client = client_of(customer)

    answer = post(client, "/api/payment/subscribe/pro", method="ccp")
    reference = answer["payment"]["reference"]
    proof = {"file_name": "slip.png", "content": base64.b64encode(PNG).decode(), "customer_reference": "CCP 123"}
    post(client, f"/api/payment/payments/{reference}/proof", **proof)
    post(client, f"/api/payment/payments/{reference}/proof", **proof)
    before = client.get("/api/payment/status").json()
    manual_confirm(payment=Payment.objects.get(), actor=OPERATOR, reason="seen")
    after = client.get("/payment/subscription/status/").json()

    assert (answer["amount"], answer["currency"], answer["checkout_url"]) == (2590, "DZD", None)
    assert (answer["subscription"]["state"], answer["payment"]["state"]) == ("incomplete", "pending")
    assert "CCP" in answer["payment"]["instructions"]
    assert PaymentProof.objects.get().content_type == "image/png"
    assert Payment.objects.get().customer_reference == "CCP 123"
    assert (before["tier"], before["is_active"], len(before["to_pay"])) == ("free", True, 1)
    assert (after["tier"], after["is_active"], after["to_pay"]) == ("pro", True, [])
    assert wrong() == []


def test_cash_bears_stamp_duty(customer: Account) -> None:
    plan_make("pro", "2590")

    answer = post(client_of(customer), "/api/payment/subscribe/pro", method="cash")

    assert answer["amount"] == 2616  # 2590 and 1 dinar for each of the 26 hundreds begun


def test_topup_in_the_accounts_currency_grants_pack_and_bonus_once(customer: Account) -> None:
    FxRate.objects.create(base="USD", quote="DZD", rate=Decimal(230), effective_from=LONG_AGO)
    CreditPack.objects.create(code="c1000", name="1,000 credits", credits=1000, bonus_credits=50, currency="USD", amount=10)

    answer = post(client_of(customer), "/api/payment/topup", pack="c1000", method="bank_transfer")
    payment = manual_confirm(payment=Payment.objects.get(), actor=OPERATOR, reason="seen")
    manual_confirm(payment=payment, actor=OPERATOR, reason="again")

    lots = list(Lot.objects.order_by("kind").values_list("kind", "amount", "paid_amount", "payment_id"))
    assert (answer["amount"], answer["credits"], answer["bonus_credits"]) == (2300, 1000, 50)
    assert lots == [("bonus", Decimal(50), Decimal(0), payment.pk), ("purchase", Decimal(1000), Decimal(2300), payment.pk)]
    assert Invoice.objects.get().state == "paid"
    assert wrong() == []


def test_idempotency_key_answers_the_first_payment(customer: Account) -> None:
    plan_make("pro", "2590")
    client = client_of(customer)
    body = {"method": "ccp"}

    first = client.post("/api/payment/subscribe/pro", body, format="json", HTTP_IDEMPOTENCY_KEY="k1").json()
    again = client.post("/api/payment/subscribe/pro", body, format="json", HTTP_IDEMPOTENCY_KEY="k1").json()

    assert again["payment"]["id"] == first["payment"]["id"]
    assert Payment.objects.count() == 1
    assert Subscription.objects.filter(state="incomplete").count() == 1


def test_subscriptions_door_takes_the_billing_email_and_lists(customer: Account, time: FrozenDateTimeFactory) -> None:
    plan_make("pro", "2590")
    client = client_of(customer)
    time.tick(60)

    answer = post(client, "/api/subscriptions", plan="pro", method="ccp", billing_email="compta@example.dz")
    listed = client.get("/api/subscriptions").json()
    shown = client.get(f"/api/subscriptions/{answer['subscription']['id']}").json()

    customer.refresh_from_db()
    assert customer.billing_email == "compta@example.dz"
    assert [entry["plan"] for entry in listed] == ["pro", "free"]
    assert shown == answer["subscription"]


def test_a_planned_change_is_taken_back(customer: Account) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))
    plan_make("small", "1000")
    client, address = client_of(customer), f"/api/subscriptions/{subscription.pk}/change-plan"
    post(client, address, 200, plan="small")
    planned = live(customer).next_plan

    stranger = client_of(account_make()).delete(address)
    taken_back, again = client.delete(address), client.delete(address)

    assert planned is not None
    assert (planned.code, stranger.status_code) == ("small", 404)
    assert (taken_back.status_code, taken_back.json()["next_plan"], live(customer).next_plan) == (200, None, None)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "nothing_scheduled")


def test_change_plan_with_preview(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))
    plan_make("plus", "6000")
    time.move_to("2026-02-14T12:00:00Z")
    client = client_of(customer)
    address = f"/api/subscriptions/{subscription.pk}/change-plan"

    preview = post(client, address, 200, plan="plus", preview=True)
    asked = post(client, address, 200, plan="plus", method="ccp")

    assert (preview["offer"]["charge"], preview["offer"]["unused"], preview["offer"]["to_pay"]) == (3000, 1500, 1500)
    assert (preview["payment"], asked["payment"]["amount"]) == (None, 1500)
    assert live(customer).plan.code == "pro"


def test_pause_resume_cancel_and_key(customer: Account) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))
    client = client_of(customer)
    address = f"/api/subscriptions/{subscription.pk}"

    paused = post(client, f"{address}/pause", 200)
    off = client.get("/api/payment/status").json()["is_active"]
    resumed = post(client, f"{address}/resume", 200)
    first = post(client, f"{address}/regenerate-key")
    second = post(client, f"{address}/regenerate-key")
    canceled = post(client, "/api/payment/cancel", 200)

    assert [answer["state"] for answer in (paused, resumed, canceled)] == ["paused", "active", "active"]
    assert (off, canceled["cancel_at_period_end"]) == (False, True)
    assert first["secret"] != second["secret"]
    assert client.get(f"/api/keys/{first['id']}").json()["state"] in ("expired", "revoked")


def test_usage_of_a_period(customer: Account) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000", billing_mode="credits", period_credits=100))
    spend(customer, "7.5", subscription=subscription)

    answer = (
        client_of(customer).get(f"/api/subscriptions/{subscription.pk}/usage?start_date=2026-01-31&end_date=2026-02-01").json()
    )

    assert (answer["requests"], answer["failed_requests"]) == (1, 0)
    assert answer["by_day"] == [{"day": "2026-01-31", "requests": 1, "credits": 7.5}]


def test_gateways_are_those_of_the_accounts_currency(customer: Account) -> None:
    Account.objects.filter(pk=customer.pk).update(currency="INR", country="IN")

    answer = client_of(customer).get("/api/payment/gateways").json()

    assert answer["currency"] == "INR"
    assert [entry["method"] for entry in answer["results"] if entry["gateway"] == "manual"] == ["bank_transfer"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", ""),
        ("get", "/usage"),
        ("post", "/cancel"),
        ("post", "/pause"),
        ("post", "/resume"),
        ("post", "/regenerate-key"),
    ],
)
def test_somebody_elses_subscription_is_not_found(customer: Account, method: str, path: str) -> None:
    subscription = subscribe(customer, plan_make("pro"))
    stranger = client_of(account_make())

    response = getattr(stranger, method)(f"/api/subscriptions/{subscription.pk}{path}", {}, format="json")

    subscription.refresh_from_db()
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert (subscription.state, subscription.cancel_at_period_end) == ("active", False)


def test_somebody_elses_payment_is_not_found(customer: Account) -> None:
    plan_make("pro")
    post(client_of(customer), "/api/payment/subscribe/pro", method="ccp")
    reference = Payment.objects.get().reference
    stranger = client_of(account_make())

    shown = stranger.get(f"/api/payment/payments/{reference}")
    sent = stranger.post(
        f"/api/payment/payments/{reference}/proof",
        {"file_name": "x", "content": base64.b64encode(PNG).decode()},
        format="json",
    )

    assert (shown.status_code, sent.status_code) == (404, 404)
    assert not PaymentProof.objects.exists()


def test_members_who_do_not_own_the_account_decide_nothing(customer: Account) -> None:
    plan_make("pro")
    member = User.objects.create_user("member@example.com", "correct horse battery")
    Membership.objects.create(account=customer, user=member, role="member")
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_begin(user=member).access_token}", HTTP_X_ACCOUNT=str(customer.pk))

    answer = post(client, "/api/payment/subscribe/pro", 403, method="ccp")

    assert answer["error"]["code"] == "owner_required"
    assert not Payment.objects.exists()


@pytest.mark.parametrize(
    ("address", "body", "status", "code"),
    [
        ("/api/payment/subscribe/none", {}, 404, "plan_not_found"),
        ("/api/payment/subscribe/pro", {"method": "barter"}, 400, "invalid_request"),
        ("/api/payment/subscribe/pro", {"coupon": "NOPE", "method": "ccp"}, 404, "coupon_not_found"),
        ("/api/payment/topup", {"pack": "none", "method": "ccp"}, 404, "pack_not_found"),
    ],
)
def test_refusals_charge_nothing(customer: Account, address: str, body: dict[str, str], status: int, code: str) -> None:
    plan_make("pro")

    answer = post(client_of(customer), address, status, **body)

    assert answer["error"]["code"] == code
    assert not Payment.objects.exists()
    assert not Invoice.objects.exists()


# --- Operators ---


def manual_payment(account: Account) -> Payment:
    invoice = begin(account, plan_make("pro")).to_pay
    method = manual_method(account=account, currency="DZD")
    return manual_payment_begin(invoice=invoice, method=method, purpose="subscribe", actor=OPERATOR)


def test_rejected_payment_may_still_be_confirmed(customer: Account) -> None:
    payment = manual_payment(customer)

    rejected = manual_reject(payment=payment, actor=OPERATOR, reason="nothing came")
    in_between = live(customer).plan.code
    confirmed = manual_confirm(payment=payment, actor=OPERATOR, reason="it came after all")

    assert (rejected.state, rejected.failure_message, in_between) == ("failed", "nothing came", "free")
    assert (confirmed.state, live(customer).plan.code) == ("succeeded", "pro")


def test_payment_with_a_proof_waits_beyond_its_time(customer: Account, time: FrozenDateTimeFactory) -> None:
    payment = manual_payment(customer)
    other = manual_payment_of_another(plan="plus")
    proof_add(payment=payment, content=PNG, file_name="a.png", actor=OPERATOR)
    time.move_to("2026-02-08T12:00:00Z")

    expired = manual_payments_expire(actor=SYSTEM)

    payment.refresh_from_db()
    other.refresh_from_db()
    assert (expired, payment.state, other.state) == (1, "pending", "expired")


def manual_payment_of_another(*, plan: str) -> Payment:
    account = account_make()
    invoice = begin(account, plan_make(plan)).to_pay
    method = manual_method(account=account, currency="DZD")
    return manual_payment_begin(invoice=invoice, method=method, purpose="subscribe", actor=OPERATOR)


@pytest.mark.parametrize(
    ("content", "code"), [(b"<html>", "proof_not_readable"), (PNG + b"0" * 5 * 1024 * 1024, "body_too_large")]
)
def test_what_is_no_proof_is_refused(customer: Account, content: bytes, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        proof_add(payment=manual_payment(customer), content=content, file_name="x", actor=OPERATOR)

    assert refused.value.code == code
    assert not PaymentProof.objects.exists()
