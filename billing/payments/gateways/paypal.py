"""PayPal Orders v2: the buyer approves, we capture. Amounts are texts in major units; it takes neither DZD nor INR."""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from . import reading
from .base import (
    Captures,
    Checkout,
    CheckoutRequest,
    Checkouts,
    Disputes,
    DisputeState,
    Fetches,
    GatewayDispute,
    GatewayError,
    GatewayMisconfigured,
    GatewayPayment,
    GatewayRefund,
    ListsPayments,
    ListsRefunds,
    Mode,
    Money,
    MoneyRefusal,
    PaymentState,
    Problem,
    RefundRequest,
    Refunds,
    RefundState,
    Rejection,
    Subject,
    WebhookEvent,
    WebhookRejected,
    Webhooks,
    secret_problems,
)
from .exchange import TOTAL_SECONDS, Answer, Exchange
from .paypal_certificates import CertificateStore, is_paypals, public_authorities, trusted_key

API_URLS = {Mode.TEST: "https://api-m.sandbox.paypal.com", Mode.LIVE: "https://api-m.paypal.com"}
# BRL, CNY and MYR are for merchants in those countries only.
WITHOUT_DECIMALS = frozenset({"HUF", "JPY", "TWD"})
CURRENCIES = WITHOUT_DECIMALS | frozenset(
    {
        "AUD",
        "CAD",
        "CHF",
        "CZK",
        "DKK",
        "EUR",
        "GBP",
        "HKD",
        "ILS",
        "MXN",
        "NOK",
        "NZD",
        "PHP",
        "PLN",
        "SEK",
        "SGD",
        "THB",
        "USD",
    }
)
_LOCALES = {"ar": "ar-EG", "en": "en-US", "fr": "fr-FR"}
TOKEN_EARLY_SECONDS = 300
LIST_SIZE = 500
LIST_PAGES = 20

_ORDER_STATES = {
    "APPROVED": PaymentState.AUTHORISED,
    "VOIDED": PaymentState.CANCELED,
    "COMPLETED": PaymentState.PROCESSING,
}
_CAPTURE_STATES = {
    "COMPLETED": PaymentState.PAID,
    "PARTIALLY_REFUNDED": PaymentState.PAID,
    "REFUNDED": PaymentState.PAID,
    "DECLINED": PaymentState.FAILED,
    "FAILED": PaymentState.FAILED,
}
_REFUND_STATES = {"COMPLETED": RefundState.SUCCEEDED, "FAILED": RefundState.FAILED, "CANCELLED": RefundState.FAILED}
# Of transactions: payments begin with T00, T1107 is a refund by us.
_PAYMENT_CODE, _REFUND_CODE = "T00", "T1107"
# One that was reversed had been paid.
_TRANSACTION_STATES = {"S": PaymentState.PAID, "V": PaymentState.PAID, "D": PaymentState.FAILED}
_TRANSACTION_REFUND_STATES = {"S": RefundState.SUCCEEDED, "D": RefundState.FAILED}
_LOST_OUTCOMES = frozenset({"RESOLVED_BUYER_FAVOUR", "ACCEPTED"})
_CAPTURE_EVENTS = frozenset(f"PAYMENT.CAPTURE.{what}" for what in ("COMPLETED", "PENDING", "DENIED"))
_REFUND_EVENTS = frozenset({"PAYMENT.CAPTURE.REFUNDED", "PAYMENT.CAPTURE.REVERSED"})
_HEADERS = (
    "paypal-transmission-id",
    "paypal-transmission-time",
    "paypal-transmission-sig",
    "paypal-cert-url",
    "paypal-auth-algo",
)


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, good until `expires_at` in unix seconds."""

    value: str
    expires_at: int


class TokenStore(Protocol):
    """Keeps access tokens: asking for one per call would soon be refused."""

    def get(self, key: str) -> Token | None: ...

    def set(self, key: str, token: Token) -> None: ...


class ProcessTokens:
    """Tokens kept by this process alone."""

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}

    def get(self, key: str) -> Token | None:
        return self._tokens.get(key)

    def set(self, key: str, token: Token) -> None:
        self._tokens[key] = token


class PayPal(Checkouts, Fetches, ListsPayments, ListsRefunds, Captures, Refunds, Disputes, Webhooks):
    """`webhook_ids` are part of what PayPal signs: several while one is replaced.

    `certificate_authorities` and `certificate_origin` exist for a PayPal that is not PayPal: PEM roots beside the system's, and
    an origin beside paypal.com from which certificates may come.
    """

    slug = "paypal"
    display_name = "PayPal"
    currencies = CURRENCIES
    webhook_headers = _HEADERS

    def __init__(
        self,
        *,
        mode: Mode,
        client_id: str,
        client_secret: str,
        webhook_ids: Sequence[str],
        api_url: str = "",
        certificate_authorities: bytes = b"",
        certificate_origin: str = "",
        tokens: TokenStore | None = None,
        total_seconds: int = TOTAL_SECONDS,
    ) -> None:
        super().__init__(mode=mode)
        self._client_id = client_id
        self._client_secret = client_secret
        self._webhook_ids = tuple(webhook_ids)
        self._certificate_origin = certificate_origin.rstrip("/")
        self._own_authorities = x509.load_pem_x509_certificates(certificate_authorities) if certificate_authorities else []
        self._tokens = tokens or ProcessTokens()
        self._token_lock = threading.Lock()
        self._exchange = Exchange(
            self.slug, api_url or API_URLS[mode], trace_header="paypal-debug-id", total_seconds=total_seconds
        )
        self._certificates = CertificateStore(self._fetch_certificate)

    def problems(self) -> Sequence[Problem]:
        given = {"PAYPAL_CLIENT_ID": self._client_id, "PAYPAL_CLIENT_SECRET": self._client_secret}
        return [
            *(Problem("no_key", setting, f"{setting} is empty") for setting, value in given.items() if not value),
            *secret_problems(self._webhook_ids, "PAYPAL_WEBHOOK_IDS"),
        ]

    def money_refusal(self, money: Money) -> MoneyRefusal | None:
        if money.currency not in CURRENCIES:
            return MoneyRefusal("PayPal does not take %(currency)s.", currency=money.currency)
        digits = 0 if money.currency in WITHOUT_DECIMALS else 2
        if money.amount != round(money.amount, digits):
            return MoneyRefusal("%(money)s has too many decimal places.", money=str(money))
        return None if money.amount > 0 else MoneyRefusal("PayPal takes more than nothing.")

    def create_checkout(self, request: CheckoutRequest, *, after_unknown: bool = False) -> Checkout:
        """The reference is the idempotency key: asked again within 6 hours, PayPal answers with the first order."""
        self.require(request.money)
        # Unique among paid orders, so two attempts at one invoice need two.
        invoice_id = f"{request.invoice_number}-{request.reference}" if request.invoice_number else request.reference
        order = self._send(
            "/v2/checkout/orders",
            f"{request.reference}-create",
            {
                "intent": "CAPTURE",
                "purchase_units": [
                    {
                        "custom_id": request.reference,
                        "invoice_id": invoice_id[:127],
                        "description": request.description[:127],
                        "amount": _amount(request.money),
                    }
                ],
                "payment_source": {
                    "paypal": {
                        "experience_context": {
                            "return_url": request.success_url,
                            "cancel_url": request.cancel_url,
                            "user_action": "PAY_NOW",
                            "shipping_preference": "NO_SHIPPING",
                            "payment_method_preference": "IMMEDIATE_PAYMENT_REQUIRED",
                            "locale": _LOCALES.get(request.language, "en-US"),
                        }
                    }
                },
            },
        )
        links = {reading.text(link, "rel"): reading.text(link, "href") for link in reading.objects_at(order, "links")}
        order_id = reading.text(order, "id")
        if not order_id:
            raise self._exchange.lost(True, "not_understood", "an order without id")
        return Checkout(order_id, links.get("payer-action") or links.get("approve", ""))

    def fetch_payment(self, *, checkout_id: str = "", payment_id: str = "") -> GatewayPayment:
        if not checkout_id:
            capture = self._get(f"/v2/payments/captures/{self._exchange.segment(payment_id)}")
            checkout_id = reading.text(capture, "supplementary_data", "related_ids", "order_id")
            if not checkout_id:
                return self._from_capture(capture, "", None)
        return self._from_order(self._get(f"/v2/checkout/orders/{self._exchange.segment(checkout_id)}"))

    def list_payments(self, *, since: datetime, until: datetime) -> list[GatewayPayment]:
        """Needs the right "Transaction Search" of our application; PayPal lists what is at least three hours old."""
        found = []
        for one in self._transactions(since, until):
            money = self._received(one)
            if not reading.text(one, "transaction_event_code").startswith(_PAYMENT_CODE) or money is None:
                continue
            state = _TRANSACTION_STATES.get(reading.text(one, "transaction_status"), PaymentState.PROCESSING)
            found.append(
                GatewayPayment(
                    gateway=self.slug,
                    checkout_id="",
                    payment_id=reading.text(one, "transaction_id"),
                    reference=reading.text(one, "custom_field"),
                    money=money,
                    state=state,
                    mode=None,
                    paid=money if state is PaymentState.PAID else None,
                    raw=one,
                )
            )
        return found

    def list_refunds(self, *, since: datetime, until: datetime) -> list[GatewayRefund]:
        found = []
        for one in self._transactions(since, until):
            money = self._received(one, sign=-1)
            if reading.text(one, "transaction_event_code") != _REFUND_CODE or money is None:
                continue
            of_a_capture = reading.text(one, "paypal_reference_id_type") == "TXN"
            found.append(
                GatewayRefund(
                    gateway=self.slug,
                    refund_id=reading.text(one, "transaction_id"),
                    payment_id=reading.text(one, "paypal_reference_id") if of_a_capture else "",
                    money=money,
                    state=_TRANSACTION_REFUND_STATES.get(reading.text(one, "transaction_status"), RefundState.PENDING),
                    raw=one,
                )
            )
        return found

    def capture_payment(self, payment: GatewayPayment) -> GatewayPayment:
        path = f"/v2/checkout/orders/{self._exchange.segment(payment.checkout_id)}/capture"
        try:
            self._send(path, f"{payment.reference}-capture", {})
        except GatewayError as error:
            if error.code != "ORDER_ALREADY_CAPTURED":
                raise
        return self.fetch_payment(checkout_id=payment.checkout_id)

    def refund(self, request: RefundRequest) -> GatewayRefund:
        self.require(request.money)
        path = f"/v2/payments/captures/{self._exchange.segment(request.payment_id)}/refund"
        note = {"note_to_payer": request.reason[:255]} if request.reason else {}
        data = self._send(path, f"{request.key}-refund", {"amount": _amount(request.money), "custom_id": request.key, **note})
        return self._refund(data, request.payment_id)

    def fetch_refund(self, refund_id: str) -> GatewayRefund:
        return self._refund(self._get(f"/v2/payments/refunds/{self._exchange.segment(refund_id)}"), "")

    def fetch_dispute(self, dispute_id: str) -> GatewayDispute:
        data = self._get(f"/v1/customer/disputes/{self._exchange.segment(dispute_id)}")
        transactions = reading.objects_at(data, "disputed_transactions") or [{}]
        outcome = reading.text(data, "dispute_outcome", "outcome_code")
        resolved = reading.text(data, "status") == "RESOLVED"
        state = DisputeState.OPEN if not resolved else DisputeState.LOST if outcome in _LOST_OUTCOMES else DisputeState.WON
        return GatewayDispute(
            gateway=self.slug,
            dispute_id=reading.text(data, "dispute_id"),
            payment_id=reading.text(transactions[0], "seller_transaction_id"),
            money=self._money(reading.object_at(data, "dispute_amount")),
            state=state,
            reason=reading.text(data, "reason"),
            raw=data,
        )

    def read_webhook(self, body: bytes, headers: Mapping[str, str], *, now: datetime, token: str = "") -> WebhookEvent:
        """The signature covers only a CRC32 of the body, which can be forged to fit: what it says must be fetched."""
        self._require_signature(body, headers, now)
        event = reading.webhook_object(body)
        if not reading.text(event, "id"):
            raise WebhookRejected(Rejection.BAD_BODY)
        kind = reading.text(event, "event_type")
        resource = reading.object_at(event, "resource")
        found: dict[str, Any] = {"subject": Subject.OTHER}
        if kind == "CHECKOUT.ORDER.APPROVED":
            units = reading.objects_at(resource, "purchase_units") or [{}]
            reference = reading.text(units[0], "custom_id")
            found = {"subject": Subject.PAYMENT, "checkout_id": reading.text(resource, "id"), "reference": reference}
        elif kind in _CAPTURE_EVENTS:
            order_id = reading.text(resource, "supplementary_data", "related_ids", "order_id")
            found = {"subject": Subject.PAYMENT, "checkout_id": order_id, "payment_id": reading.text(resource, "id")}
            found["reference"] = reading.text(resource, "custom_id")
        elif kind in _REFUND_EVENTS:
            found = {"subject": Subject.REFUND, "refund_id": reading.text(resource, "id"), "payment_id": _capture_of(resource)}
        elif kind.startswith("CUSTOMER.DISPUTE."):
            transactions = reading.objects_at(resource, "disputed_transactions") or [{}]
            found = {
                "subject": Subject.DISPUTE,
                "dispute_id": reading.text(resource, "dispute_id"),
                "payment_id": reading.text(transactions[0], "seller_transaction_id"),
            }
        return WebhookEvent(gateway=self.slug, event_id=reading.text(event, "id"), type=kind, payload=event, **found)

    def _require_signature(self, body: bytes, headers: Mapping[str, str], now: datetime) -> None:
        webhook_ids = [webhook_id for webhook_id in self._webhook_ids if webhook_id]
        if not webhook_ids:
            raise WebhookRejected(Rejection.NO_SECRET)
        transmission, sent_at, signature, url, algorithm = (headers.get(name, "") for name in _HEADERS)
        if not all((transmission, sent_at, signature, url)):
            raise WebhookRejected(Rejection.NO_SIGNATURE)
        if algorithm != "SHA256withRSA" or not (transmission + sent_at).isascii():
            raise WebhookRejected(Rejection.BAD_SIGNATURE)
        try:
            signed = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            raise WebhookRejected(Rejection.BAD_SIGNATURE) from None
        if not self._may_hold_certificates(url):
            raise WebhookRejected(Rejection.FOREIGN_CERTIFICATE)
        authorities = (*self._own_authorities, *public_authorities())
        key = trusted_key(self._certificates.pem(url), now=now, authorities=authorities)
        for webhook_id in webhook_ids:
            message = f"{transmission}|{sent_at}|{webhook_id}|{zlib.crc32(body)}".encode()
            try:
                key.verify(signed, message, PKCS1v15(), SHA256())
            except InvalidSignature:
                continue
            return
        raise WebhookRejected(Rejection.BAD_SIGNATURE)

    def _may_hold_certificates(self, url: str) -> bool:
        if is_paypals(url):
            return True
        path = re.escape(self._certificate_origin) + r"/v1/notifications/certs/[A-Za-z0-9_-]{1,100}"
        return bool(self._certificate_origin) and re.fullmatch(path, url) is not None

    def _fetch_certificate(self, url: str) -> bytes:
        answer = self._exchange.call("GET", url, changes=False)
        if not answer.ok:
            raise self._exchange.absent(answer)
        return answer.body

    def _from_order(self, order: Mapping[str, Any]) -> GatewayPayment:
        unit = (reading.objects_at(order, "purchase_units") or [{}])[0]
        captures = reading.objects_at(unit, "payments", "captures")
        if captures:
            # A declined capture may be followed by one that succeeds.
            best = next((one for one in captures if _capture_state(one) is PaymentState.PAID), captures[-1])
            return self._from_capture(best, reading.text(order, "id"), order)
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=reading.text(order, "id"),
            payment_id="",
            reference=reading.text(unit, "custom_id"),
            money=self._money(reading.object_at(unit, "amount")),
            state=_ORDER_STATES.get(reading.text(order, "status"), PaymentState.OPEN),
            mode=None,
            raw=order,
        )

    def _from_capture(self, capture: Mapping[str, Any], order_id: str, order: Mapping[str, Any] | None) -> GatewayPayment:
        unit = (reading.objects_at(order or {}, "purchase_units") or [{}])[0]
        money = self._money(reading.object_at(capture, "amount"))
        asked = self._money(reading.object_at(unit, "amount")) if reading.object_at(unit, "amount") else money
        state = _capture_state(capture)
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=order_id,
            payment_id=reading.text(capture, "id"),
            reference=reading.text(capture, "custom_id") or reading.text(unit, "custom_id"),
            money=asked,
            state=state,
            mode=None,
            paid=money if state is PaymentState.PAID else None,
            refunded=self._refunded(unit, capture, money),
            failure=reading.text(capture, "status_details", "reason"),
            raw=order or capture,
        )

    def _transactions(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        # Both ends count, to the second.
        first, last = (
            f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for at in (since, datetime.fromtimestamp(until.timestamp() - 1, UTC))
        )
        query = {"start_date": first, "end_date": last, "fields": "transaction_info", "page_size": str(LIST_SIZE)}
        found: list[dict[str, Any]] = []
        for page in range(1, LIST_PAGES + 1):
            answer = self._authorised("GET", "/v1/reporting/transactions", changes=False, query={**query, "page": str(page)})
            data = self._exchange.understood(answer, changes=False)
            found += [reading.object_at(one, "transaction_info") for one in reading.objects_at(data, "transaction_details")]
            if page >= (reading.whole(data, "total_pages") or 0):
                return found
        raise self._exchange.lost(False, "too_many", f"more than {LIST_PAGES} pages")

    def _received(self, transaction: Mapping[str, Any], *, sign: int = 1) -> Money | None:
        """What a transaction brought us (`sign` 1) or took (-1); None for one that went the other way."""
        amount = reading.object_at(transaction, "transaction_amount")
        try:
            value = sign * Decimal(reading.text(amount, "value"))
        except InvalidOperation:
            raise self._exchange.lost(False, "not_understood", "a transaction without amount") from None
        return reading.decimal_money(str(value), reading.text(amount, "currency_code")) if value > 0 else None

    def _refunded(self, unit: Mapping[str, Any], capture: Mapping[str, Any], money: Money) -> Decimal:
        done = [one for one in reading.objects_at(unit, "payments", "refunds") if reading.text(one, "status") == "COMPLETED"]
        if done:
            return sum((self._money(reading.object_at(one, "amount")).amount for one in done), Decimal(0))
        return money.amount if reading.text(capture, "status") == "REFUNDED" else Decimal(0)

    def _refund(self, data: Mapping[str, Any], payment_id: str) -> GatewayRefund:
        return GatewayRefund(
            gateway=self.slug,
            refund_id=self._exchange.needed(reading.text(data, "id") or None, "refund id", changes=True),
            payment_id=payment_id or _capture_of(data),
            money=self._money(reading.object_at(data, "amount"), changes=True),
            state=_REFUND_STATES.get(reading.text(data, "status"), RefundState.PENDING),
            key=reading.text(data, "custom_id"),
            failure=reading.text(data, "status_details", "reason"),
            raw=data,
        )

    def _money(self, amount: Mapping[str, Any], *, changes: bool = False) -> Money:
        money = reading.decimal_money(reading.text(amount, "value"), reading.text(amount, "currency_code"))
        return self._exchange.needed(money, "amount", changes=changes)

    def _send(self, path: str, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"PayPal-Request-Id": key, "Prefer": "return=representation"}
        answer = self._authorised("POST", path, changes=True, headers=headers, json_body=body)
        return self._exchange.understood(answer, changes=True)

    def _get(self, path: str) -> dict[str, Any]:
        return self._exchange.understood(self._authorised("GET", path, changes=False), changes=False)

    def _authorised(
        self, method: str, path: str, *, changes: bool, headers: Mapping[str, str] | None = None, **what: Any
    ) -> Answer:
        """One call with our token; a token that is refused is replaced once."""
        for fresh in (False, True):
            authorisation = {"Authorization": f"Bearer {self._token(fresh=fresh)}"}
            answer = self._exchange.call(method, path, changes=changes, headers={**(headers or {}), **authorisation}, **what)
            if answer.status != 401:
                break
        if answer.status >= 400:
            raise self._failure(answer)
        return answer

    def _token(self, *, fresh: bool) -> str:
        with self._token_lock:
            known = self._tokens.get(self._client_id)
            now = int(time.time())
            if known and not fresh and known.expires_at - TOKEN_EARLY_SECONDS > now:
                return known.value
            basic = base64.b64encode(f"{self._client_id}:{self._client_secret}".encode()).decode()
            answer = self._exchange.call(
                "POST",
                "/v1/oauth2/token",
                changes=False,
                headers={"Authorization": f"Basic {basic}"},
                form={"grant_type": "client_credentials"},
            )
            if answer.status >= 400:
                words = reading.text(answer.data, "error_description")
                raise GatewayMisconfigured(self.slug, reading.text(answer.data, "error") or "no_token", words)
            data = self._exchange.understood(answer, changes=False)
            value = self._exchange.needed(reading.text(data, "access_token") or None, "access token")
            self._tokens.set(self._client_id, Token(value, now + (reading.whole(data, "expires_in") or 0)))
            return value

    def _failure(self, answer: Answer) -> GatewayError:
        details = reading.objects_at(answer.data, "details") or [{}]
        code = reading.text(details[0], "issue") or reading.text(answer.data, "name") or reading.text(answer.data, "error")
        words = reading.text(details[0], "description") or reading.text(answer.data, "message")
        if code == "ORDER_COMPLETION_IN_PROGRESS":
            return self._exchange.lost(True, code, words)
        return self._exchange.refused(answer, code, words)


def _amount(money: Money) -> dict[str, str]:
    digits = 0 if money.currency in WITHOUT_DECIMALS else 2
    return {"currency_code": money.currency, "value": f"{money.amount:.{digits}f}"}


def _capture_state(capture: Mapping[str, Any]) -> PaymentState:
    return _CAPTURE_STATES.get(reading.text(capture, "status"), PaymentState.PROCESSING)


def _capture_of(refund: Mapping[str, Any]) -> str:
    """The capture that a refund belongs to: only its link `up` says it, and only the last part of that is read."""
    links = {reading.text(link, "rel"): reading.text(link, "href") for link in reading.objects_at(refund, "links")}
    try:
        return urlsplit(links.get("up", "")).path.rpartition("/captures/")[2]
    except ValueError:
        return ""
