"""Chargily Pay V2: EDAHABIA and CIB cards, in Algerian dinars. Amounts are whole dinars; nothing can be refunded by API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from . import reading
from .base import (
    Cancels,
    Checkout,
    CheckoutRequest,
    Checkouts,
    Fetches,
    GatewayPayment,
    GatewayRefused,
    ListsPayments,
    Mode,
    Money,
    MoneyRefusal,
    PaymentState,
    Problem,
    Rejection,
    Subject,
    WebhookEvent,
    WebhookRejected,
    Webhooks,
    key_problems,
)
from .exchange import TOTAL_SECONDS, Answer, Exchange
from .signatures import require_hmac_sha256

API_URLS = {Mode.TEST: "https://pay.chargily.net/test/api/v2", Mode.LIVE: "https://pay.chargily.net/api/v2"}
# The gateway names no limit for V2; its own client refuses 10 dinars and less.
MORE_THAN_DINARS = Decimal(10)
CHECKOUT_LIFE = timedelta(minutes=30)
SEARCH_PAGES = 3
SEARCH_PAGE_SIZE = 50
LIST_PAGES = 1000

# What is not named here is still open: look again.
_STATES = {
    "paid": PaymentState.PAID,
    "failed": PaymentState.FAILED,
    "canceled": PaymentState.CANCELED,
    "expired": PaymentState.EXPIRED,
    "processing": PaymentState.PROCESSING,
}
_EVENTS = frozenset({"checkout.paid", "checkout.failed", "checkout.canceled", "checkout.expired"})


class Chargily(Checkouts, Cancels, Fetches, ListsPayments, Webhooks):
    """`secret_key` also signs webhooks; `earlier_secret_keys` are believed too while the key is replaced."""

    slug = "chargily"
    display_name = "Chargily (EDAHABIA, CIB)"
    currencies = frozenset({"DZD"})
    webhook_headers = ("signature",)

    def __init__(
        self,
        *,
        mode: Mode,
        secret_key: str,
        earlier_secret_keys: Sequence[str] = (),
        api_url: str = "",
        total_seconds: int = TOTAL_SECONDS,
    ) -> None:
        super().__init__(mode=mode)
        self._secret_key = secret_key
        self._webhook_secrets = (secret_key, *earlier_secret_keys)
        self._exchange = Exchange(self.slug, api_url or API_URLS[mode], total_seconds=total_seconds)

    def problems(self) -> Sequence[Problem]:
        return key_problems(self.mode, self._secret_key, "CHARGILY_SECRET_KEY", live="live_sk_", test="test_sk_")

    def money_refusal(self, money: Money) -> MoneyRefusal | None:
        if money.currency not in self.currencies:
            return self.other_currency_refusal("DZD", money)
        if money.amount != money.amount.to_integral_value():
            return MoneyRefusal("Chargily takes whole dinars only.")
        if money.amount <= MORE_THAN_DINARS:
            return MoneyRefusal("Chargily takes more than %(dinars)s dinars.", dinars=MORE_THAN_DINARS)
        return None

    def create_checkout(self, request: CheckoutRequest, *, after_unknown: bool = False) -> Checkout:
        """Chargily repeats nothing by itself: after an unknown outcome its newest checkouts are searched for our reference."""
        self.require(request.money)
        if after_unknown and (found := self._find_open(request)):
            return found
        answer = self._call(
            "POST",
            "/checkouts",
            changes=True,
            json_body={
                "amount": int(request.money.amount),
                "currency": "dzd",
                "success_url": request.success_url,
                "failure_url": request.cancel_url,
                **({"webhook_endpoint": request.webhook_url} if request.webhook_url else {}),
                "description": request.description,
                "locale": request.language if request.language in ("ar", "en", "fr") else "fr",
                "chargily_pay_fees_allocation": "merchant",
                "metadata": {"payment_attempt": request.reference, "invoice": request.invoice_number},
            },
        )
        data = self._exchange.understood(answer, changes=True)
        checkout = _checkout(data)
        if not checkout.checkout_id or not checkout.url:
            raise self._exchange.lost(True, "not_understood", "a checkout without id or address")
        if reading.whole(data, "amount") != int(request.money.amount):
            raise GatewayRefused(self.slug, "amount_changed", "the gateway shows the buyer another amount")
        return checkout

    def cancel_checkout(self, checkout_id: str) -> None:
        path = f"/checkouts/{self._exchange.segment(checkout_id)}/expire"
        answer = self._exchange.call("POST", path, changes=True, headers=self._headers())
        if answer.ok or answer.status == 400:
            return
        raise self._failure(answer)

    def fetch_payment(self, *, checkout_id: str = "", payment_id: str = "") -> GatewayPayment:
        path = f"/checkouts/{self._exchange.segment(checkout_id or payment_id)}"
        return self._payment(self._exchange.understood(self._call("GET", path, changes=False), changes=False))

    def list_payments(self, *, since: datetime, until: datetime) -> list[GatewayPayment]:
        """Checkouts, the newest first, read back to `since`: they cannot be asked for by date."""
        found: list[GatewayPayment] = []
        for page in range(1, LIST_PAGES + 1):
            entries = self._page(page)
            ages = [(reading.instant(entry, "created_at"), entry) for entry in entries]
            found += [self._payment(entry) for at, entry in ages if at is None or since <= at < until]
            if len(entries) < SEARCH_PAGE_SIZE or all(at is not None and at < since for at, _entry in ages):
                return found
        raise self._exchange.lost(False, "too_many", f"more than {LIST_PAGES} pages")

    def _payment(self, data: Mapping[str, Any]) -> GatewayPayment:
        amount = str(self._exchange.needed(reading.whole(data, "amount"), "amount"))
        money = self._exchange.needed(reading.decimal_money(amount, reading.text(data, "currency") or "DZD"), "amount")
        state = _STATES.get(reading.text(data, "status"), PaymentState.OPEN)
        live = reading.flag(data, "livemode")
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=reading.text(data, "id"),
            payment_id=reading.text(data, "id"),
            reference=reading.text(data, "metadata", "payment_attempt"),
            money=money,
            state=state,
            mode=None if live is None else Mode.LIVE if live else Mode.TEST,
            paid=money if state is PaymentState.PAID else None,
            raw=data,
        )

    def read_webhook(self, body: bytes, headers: Mapping[str, str], *, now: datetime, token: str = "") -> WebhookEvent:
        require_hmac_sha256(self._webhook_secrets, body, [headers.get("signature", "")])
        event = reading.webhook_object(body)
        if not reading.text(event, "id"):
            raise WebhookRejected(Rejection.BAD_BODY)
        live = reading.flag(event, "livemode")
        kind = reading.text(event, "type")
        return WebhookEvent(
            gateway=self.slug,
            event_id=reading.text(event, "id"),
            type=kind,
            subject=Subject.PAYMENT if kind in _EVENTS else Subject.OTHER,
            payload=event,
            mode=None if live is None else Mode.LIVE if live else Mode.TEST,
            reference=reading.text(event, "data", "metadata", "payment_attempt"),
            checkout_id=reading.text(event, "data", "id"),
            payment_id=reading.text(event, "data", "id"),
        )

    def _find_open(self, request: CheckoutRequest) -> Checkout | None:
        for page in range(1, SEARCH_PAGES + 1):
            entries = self._page(page)
            for entry in entries:
                ours = reading.text(entry, "metadata", "payment_attempt") == request.reference
                same_amount = reading.whole(entry, "amount") == int(request.money.amount)
                if ours and same_amount and reading.text(entry, "status") == "pending":
                    return _checkout(entry)
            if len(entries) < SEARCH_PAGE_SIZE:
                break
        return None

    def _page(self, page: int) -> list[dict[str, Any]]:
        query = {"per_page": str(SEARCH_PAGE_SIZE), "page": str(page)}
        data = self._exchange.understood(self._call("GET", "/checkouts", changes=False, query=query), changes=False)
        return reading.objects_at(data, "data")

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._secret_key}", "Accept": "application/json"}

    def _call(self, method: str, path: str, *, changes: bool, **what: Any) -> Answer:
        answer = self._exchange.call(method, path, changes=changes, headers=self._headers(), **what)
        if answer.status >= 400:
            raise self._failure(answer)
        return answer

    def _failure(self, answer: Answer) -> Exception:
        fields = reading.object_at(answer.data, "errors")
        message = " ".join(
            str(said) for sayings in fields.values() for said in (sayings if isinstance(sayings, list) else [sayings])
        )
        code = "invalid_fields" if fields else ""
        return self._exchange.refused(answer, code, message or reading.text(answer.data, "message"))


def _checkout(data: Mapping[str, Any]) -> Checkout:
    created = reading.instant(data, "created_at")
    return Checkout(
        checkout_id=reading.text(data, "id"),
        url=reading.text(data, "checkout_url"),
        expires_at=None if created is None else created + CHECKOUT_LIFE,
    )
