"""Razorpay Payment Links: cards, UPI and net banking in Indian rupees. Amounts are integers of paise."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from . import reading
from .base import (
    Cancels,
    Captures,
    Checkout,
    CheckoutRequest,
    Checkouts,
    Disputes,
    DisputeState,
    Fetches,
    GatewayDispute,
    GatewayError,
    GatewayPayment,
    GatewayRefund,
    ListsPayments,
    ListsRefunds,
    Mode,
    Money,
    MoneyRefusal,
    ObjectNotFound,
    PaymentState,
    Problem,
    RefundRequest,
    Refunds,
    RefundState,
    Rejection,
    Returns,
    Subject,
    WebhookEvent,
    WebhookRejected,
    Webhooks,
    from_units,
    key_problems,
    secret_problems,
    to_units,
)
from .exchange import TOTAL_SECONDS, Answer, Exchange
from .signatures import require_hmac_sha256

API_URL = "https://api.razorpay.com"
PAISE_DIGITS = 2
LEAST_PAISE = 100
LIST_SIZE = 100
LIST_PAGES = 1000

_LINK_STATES = {
    "paid": PaymentState.PAID,
    "expired": PaymentState.EXPIRED,
    "cancelled": PaymentState.CANCELED,
    "partially_paid": PaymentState.PROCESSING,
}
_PAYMENT_STATES = {
    "captured": PaymentState.PAID,
    "refunded": PaymentState.PAID,
    "authorized": PaymentState.AUTHORISED,
    "failed": PaymentState.FAILED,
}
_TAKEN = ("captured", "refunded")
_REFUND_STATES = {"processed": RefundState.SUCCEEDED, "failed": RefundState.FAILED}
# `closed` says that it is over and the money stays with us.
_DISPUTE_STATES = {"won": DisputeState.WON, "closed": DisputeState.WON, "lost": DisputeState.LOST}
_SUBJECTS = {"refund": Subject.REFUND, "payment_link": Subject.PAYMENT, "order": Subject.PAYMENT, "payment": Subject.PAYMENT}


class Razorpay(Checkouts, Cancels, Fetches, ListsPayments, ListsRefunds, Captures, Refunds, Disputes, Webhooks, Returns):
    """One base address for both modes: the key decides. Webhooks have a secret of their own, never the key's."""

    slug = "razorpay"
    display_name = "Razorpay"
    currencies = frozenset({"INR"})
    webhook_headers = ("x-razorpay-signature", "x-razorpay-event-id")

    def __init__(
        self,
        *,
        mode: Mode,
        key_id: str,
        key_secret: str,
        webhook_secrets: Sequence[str],
        api_url: str = "",
        total_seconds: int = TOTAL_SECONDS,
    ) -> None:
        super().__init__(mode=mode)
        self._key_id = key_id
        self._key_secret = key_secret
        self._webhook_secrets = tuple(webhook_secrets)
        self._exchange = Exchange(self.slug, api_url or API_URL, total_seconds=total_seconds)

    def problems(self) -> Sequence[Problem]:
        found = key_problems(self.mode, self._key_id, "RAZORPAY_KEY_ID", live="rzp_live_", test="rzp_test_")
        if not self._key_secret:
            found.append(Problem("no_key", "RAZORPAY_KEY_SECRET", "RAZORPAY_KEY_SECRET is empty"))
        return [*found, *secret_problems(self._webhook_secrets, "RAZORPAY_WEBHOOK_SECRETS")]

    def money_refusal(self, money: Money) -> MoneyRefusal | None:
        if money.currency not in self.currencies:
            return self.other_currency_refusal("INR", money)
        try:
            units = to_units(money, PAISE_DIGITS)
        except ValueError:
            return MoneyRefusal("%(money)s has too many decimal places.", money=str(money))
        return None if units >= LEAST_PAISE else MoneyRefusal("%(gateway)s takes 1 rupee at least.", gateway=self.display_name)

    def create_checkout(self, request: CheckoutRequest, *, after_unknown: bool = False) -> Checkout:
        """A reference makes one link only: asked again, Razorpay refuses, and the first link is looked up."""
        self.require(request.money)
        customer = {"name": request.name, "email": request.email, "contact": request.phone}
        body = {
            "amount": to_units(request.money, PAISE_DIGITS),
            "currency": "INR",
            "accept_partial": False,
            "reference_id": request.reference,
            "description": request.description[:2048],
            "customer": {name: value for name, value in customer.items() if value},
            "notify": {"sms": False, "email": False},
            "reminder_enable": False,
            "callback_url": request.success_url,
            "callback_method": "get",
            "notes": {"payment_attempt": request.reference, "invoice": request.invoice_number},
        }
        if request.expires_at:
            body["expire_by"] = int(request.expires_at.timestamp())
        answer = self._exchange.call("POST", "/v1/payment_links", changes=True, headers=self._headers(), json_body=body)
        if answer.status == 400 and (found := self._find_link(request)):
            return found
        if answer.status >= 400:
            raise self._failure(answer)
        return self._checkout(self._exchange.understood(answer, changes=True))

    def cancel_checkout(self, checkout_id: str) -> None:
        path = f"/v1/payment_links/{self._exchange.segment(checkout_id)}"
        answer = self._exchange.call("POST", f"{path}/cancel", changes=True, headers=self._headers(), json_body={})
        if answer.ok:
            return
        if answer.status == 400 and reading.text(self._get(path), "status") in ("cancelled", "expired"):
            return
        raise self._failure(answer)

    def fetch_payment(self, *, checkout_id: str = "", payment_id: str = "") -> GatewayPayment:
        """A link with the payments made on it. A failed payment leaves its link open: the buyer may try again."""
        payments: list[dict[str, Any]] = []
        if not checkout_id:
            payment = self._get(f"/v1/payments/{self._exchange.segment(payment_id)}")
            found = self._link_of(payment)
            if not found:
                return self._from_order(payment)
            checkout_id, payments = found, [payment]
        link = self._get(f"/v1/payment_links/{self._exchange.segment(checkout_id)}")
        order_id = reading.text(link, "order_id")
        if order_id:
            listed = self._get(f"/v1/orders/{self._exchange.segment(order_id)}/payments")
            payments = reading.objects_at(listed, "items")
        money = [one for one in payments if reading.text(one, "status") in _TAKEN]
        # Of several the one that was asked for.
        taken = next((one for one in money if reading.text(one, "id") == payment_id), money[0] if money else None)
        waiting = next((one for one in payments if reading.text(one, "status") == "authorized"), None)
        state = _LINK_STATES.get(reading.text(link, "status"), PaymentState.OPEN)
        if waiting and not taken:
            state = PaymentState.AUTHORISED
        chosen = taken or waiting or (payments[-1] if payments else {})
        paid = (
            self._money(taken, "amount") if taken else self._money(link, "amount_paid") if state is PaymentState.PAID else None
        )
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=reading.text(link, "id"),
            payment_id=reading.text(chosen, "id"),
            reference=reading.text(link, "reference_id"),
            money=self._money(link, "amount"),
            state=PaymentState.PAID if taken else state,
            mode=None,
            paid=paid,
            refunded=self._refunded(taken),
            failure=_failure_of(chosen),
            raw={"payment_link": link, "payments": payments},
        )

    def capture_payment(self, payment: GatewayPayment) -> GatewayPayment:
        """Only when the account does not capture by itself; uncaptured payments go back after three days."""
        path = f"/v1/payments/{self._exchange.segment(payment.payment_id)}/capture"
        body = {"amount": to_units(payment.money, PAISE_DIGITS), "currency": payment.money.currency}
        answer = self._exchange.call("POST", path, changes=True, headers=self._headers(), json_body=body)
        now = self.fetch_payment(checkout_id=payment.checkout_id, payment_id=payment.payment_id)
        if now.state is not PaymentState.PAID and answer.status >= 400:
            raise self._failure(answer)
        return now

    def list_payments(self, *, since: datetime, until: datetime) -> list[GatewayPayment]:
        """Payments as they are, without our reference: that stands on the link."""
        return [self._from_listed(one) for one in self._listed("/v1/payments", since, until)]

    def list_refunds(self, *, since: datetime, until: datetime) -> list[GatewayRefund]:
        listed = self._listed("/v1/refunds", since, until)
        return [self._refund(one) for one in listed if reading.text(one, "currency").upper() == "INR"]

    def refund(self, request: RefundRequest) -> GatewayRefund:
        self.require(request.money)
        path = f"/v1/payments/{self._exchange.segment(request.payment_id)}/refund"
        body = {
            "amount": to_units(request.money, PAISE_DIGITS),
            "speed": "normal",
            "receipt": request.key,
            "notes": {"refund": request.key, "reason": request.reason[:256]},
        }
        headers = self._headers() | {"X-Refund-Idempotency": request.key}
        answer = self._exchange.call("POST", path, changes=True, headers=headers, json_body=body)
        if answer.status >= 400:
            raise self._failure(answer)
        return self._refund(self._exchange.understood(answer, changes=True))

    def fetch_refund(self, refund_id: str) -> GatewayRefund:
        return self._refund(self._get(f"/v1/refunds/{self._exchange.segment(refund_id)}"))

    def fetch_dispute(self, dispute_id: str) -> GatewayDispute:
        data = self._get(f"/v1/disputes/{self._exchange.segment(dispute_id)}")
        return GatewayDispute(
            gateway=self.slug,
            dispute_id=reading.text(data, "id"),
            payment_id=reading.text(data, "payment_id"),
            money=self._money(data, "amount"),
            state=_DISPUTE_STATES.get(reading.text(data, "status"), DisputeState.OPEN),
            reason=reading.text(data, "reason_code"),
            raw=data,
        )

    def read_webhook(self, body: bytes, headers: Mapping[str, str], *, now: datetime, token: str = "") -> WebhookEvent:
        """Bodies carry no id of the event, a header outside the signature does; without it the body's hash stands in."""
        require_hmac_sha256(self._webhook_secrets, body, [headers.get("x-razorpay-signature", "")])
        event = reading.webhook_object(body)
        kind = reading.text(event, "event")
        if not kind:
            raise WebhookRejected(Rejection.BAD_BODY)
        entities = {
            name: reading.object_at(event, "payload", name, "entity")
            for name in ("payment_link", "payment", "refund", "dispute")
        }
        family = kind.partition(".")[0]
        subject = Subject.DISPUTE if kind.startswith("payment.dispute.") else _SUBJECTS.get(family, Subject.OTHER)
        reference = reading.text(entities["payment_link"], "reference_id")
        return WebhookEvent(
            gateway=self.slug,
            event_id=headers.get("x-razorpay-event-id", "")[:200] or hashlib.sha256(body).hexdigest(),
            type=kind,
            subject=subject,
            payload=event,
            reference=reference or reading.text(entities["payment"], "notes", "payment_attempt"),
            checkout_id=reading.text(entities["payment_link"], "id") or self._link_of(entities["payment"]),
            payment_id=reading.text(entities["payment"], "id") or reading.text(entities["refund"], "payment_id"),
            refund_id=reading.text(entities["refund"], "id"),
            dispute_id=reading.text(entities["dispute"], "id"),
        )

    def read_return(self, fields: Mapping[str, str]) -> WebhookEvent:
        """The browser's return from a link, or from an order paid in a page of ours; signed with the key's secret.

        An order's id must be the one that we stored: compare it with the answer's `checkout_id`.
        """
        payment_id = fields.get("razorpay_payment_id", "")
        link_id = fields.get("razorpay_payment_link_id", "")
        reference = fields.get("razorpay_payment_link_reference_id", "")
        checkout_id = link_id or fields.get("razorpay_order_id", "")
        signed = [checkout_id, payment_id]
        if link_id:
            signed = [link_id, reference, fields.get("razorpay_payment_link_status", ""), payment_id]
        if not checkout_id or not payment_id:
            raise WebhookRejected(Rejection.BAD_BODY)
        message = "|".join(signed).encode("utf-8", "surrogatepass")
        require_hmac_sha256([self._key_secret], message, [fields.get("razorpay_signature", "")])
        return WebhookEvent(
            gateway=self.slug,
            event_id=f"return:{checkout_id}:{payment_id}",
            type="return",
            subject=Subject.PAYMENT,
            payload=dict(fields),
            reference=reference,
            checkout_id=checkout_id,
            payment_id=payment_id,
        )

    def _listed(self, path: str, since: datetime, until: datetime) -> list[dict[str, Any]]:
        # Both ends count.
        span = {"from": str(int(since.timestamp())), "to": str(int(until.timestamp()) - 1), "count": str(LIST_SIZE)}
        found: list[dict[str, Any]] = []
        for _ in range(LIST_PAGES):
            page = reading.objects_at(self._get(path, {**span, "skip": str(len(found))}), "items")
            found += page
            if len(page) < LIST_SIZE:
                return found
        raise self._exchange.lost(False, "too_many", f"more than {LIST_PAGES} pages")

    def _from_listed(self, payment: Mapping[str, Any]) -> GatewayPayment:
        units = self._exchange.needed(reading.whole(payment, "amount"), "amount")
        currency = self._exchange.needed(reading.currency(payment, "currency"), "currency")
        money = from_units(units, currency, PAISE_DIGITS)
        state = _PAYMENT_STATES.get(reading.text(payment, "status"), PaymentState.OPEN)
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=self._link_of(payment),
            payment_id=reading.text(payment, "id"),
            reference="",
            money=money,
            state=state,
            mode=None,
            paid=money if state is PaymentState.PAID else None,
            failure=_failure_of(payment),
            raw=payment,
        )

    def _find_link(self, request: CheckoutRequest) -> Checkout | None:
        data = self._get("/v1/payment_links", {"reference_id": request.reference})
        for link in reading.objects_at(data, "payment_links"):
            same_amount = reading.whole(link, "amount") == to_units(request.money, PAISE_DIGITS)
            if reading.text(link, "reference_id") == request.reference and same_amount:
                return self._checkout(link)
        return None

    def _checkout(self, link: Mapping[str, Any]) -> Checkout:
        link_id = self._exchange.needed(reading.text(link, "id") or None, "link id", changes=True)
        return Checkout(link_id, reading.text(link, "short_url"), expires_at=reading.instant(link, "expire_by"))

    def _link_of(self, payment: Mapping[str, Any]) -> str:
        """The link that a payment was made on: its description is `#` and the id without prefix."""
        description = reading.text(payment, "description")
        return f"plink_{description[1:]}" if description.startswith("#") and description[1:].isalnum() else ""

    def _from_order(self, payment: Mapping[str, Any]) -> GatewayPayment:
        """A payment outside any link: an order's receipt is our reference there."""
        order_id = reading.text(payment, "order_id")
        if not order_id:
            raise ObjectNotFound(self.slug, "no_order", "the payment belongs to no link and no order")
        order = self._get(f"/v1/orders/{self._exchange.segment(order_id)}")
        state = _PAYMENT_STATES.get(reading.text(payment, "status"), PaymentState.OPEN)
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=order_id,
            payment_id=reading.text(payment, "id"),
            reference=reading.text(order, "receipt"),
            money=self._money(order, "amount"),
            state=state,
            mode=None,
            paid=self._money(payment, "amount") if state is PaymentState.PAID else None,
            refunded=self._refunded(payment),
            failure=_failure_of(payment),
            raw={"order": order, "payments": [payment]},
        )

    def _refunded(self, payment: Mapping[str, Any] | None) -> Decimal:
        return self._money(payment, "amount_refunded").amount if reading.whole(payment, "amount_refunded") else Decimal(0)

    def _refund(self, data: Mapping[str, Any]) -> GatewayRefund:
        return GatewayRefund(
            gateway=self.slug,
            refund_id=self._exchange.needed(reading.text(data, "id") or None, "refund id", changes=True),
            payment_id=reading.text(data, "payment_id"),
            money=self._money(data, "amount", changes=True),
            state=_REFUND_STATES.get(reading.text(data, "status"), RefundState.PENDING),
            key=reading.text(data, "receipt") or reading.text(data, "notes", "refund"),
            raw=data,
        )

    def _money(self, data: Mapping[str, Any] | None, key: str, *, changes: bool = False) -> Money:
        units = self._exchange.needed(reading.whole(data, key), key, changes=changes)
        currency = reading.text(data, "currency").upper()
        if units < 0 or currency != "INR":
            raise self._exchange.lost(changes, "not_understood", f"{key} in {currency or 'no currency'}")
        return from_units(units, currency, PAISE_DIGITS)

    def _headers(self) -> dict[str, str]:
        basic = base64.b64encode(f"{self._key_id}:{self._key_secret}".encode()).decode()
        return {"Authorization": f"Basic {basic}"}

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        answer = self._exchange.call("GET", path, changes=False, headers=self._headers(), query=query)
        if answer.status == 400 and "does not exist" in reading.text(answer.data, "error", "description"):
            raise self._exchange.absent(answer)
        if answer.status >= 400:
            raise self._failure(answer)
        return self._exchange.understood(answer, changes=False)

    def _failure(self, answer: Answer) -> GatewayError:
        error = reading.object_at(answer.data, "error")
        code = reading.text(error, "reason") or reading.text(error, "code")
        return self._exchange.refused(answer, code, reading.text(error, "description"))


def _failure_of(payment: Mapping[str, Any]) -> str:
    words = (reading.text(payment, "error_reason"), reading.text(payment, "error_description"))
    return ": ".join(word for word in words if word)
