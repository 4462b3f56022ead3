"""Stripe: Checkout Sessions, saved cards, refunds, disputes. Amounts are integers of the currency's minor unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from . import reading
from .base import (
    Cancels,
    CardFacts,
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
    SavedCardCharge,
    SavedCards,
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

API_URL = "https://api.stripe.com"
# Without it the account's default version would apply, and shapes would change under us.
API_VERSION = "2026-10-28.endive"
TOLERANCE_SECONDS = 300
LIST_SIZE = 100
LIST_PAGES = 1000

# Those we sell in, with the decimal places they have here: Stripe's own, not always ISO 4217's.
MINOR_DIGITS: Mapping[str, int] = {
    **dict.fromkeys(("AED", "AUD", "BRL", "CAD", "CHF", "CZK", "DKK", "DZD", "EUR", "GBP", "HKD", "ILS", "INR", "MAD"), 2),
    **dict.fromkeys(("MXN", "MYR", "NOK", "NZD", "PHP", "PLN", "QAR", "RON", "SAR", "SEK", "SGD", "THB", "USD", "ZAR"), 2),
    **dict.fromkeys(("JPY", "KRW", "VND", "XAF", "XOF"), 0),
}

_INTENT_STATES = {
    "succeeded": PaymentState.PAID,
    "processing": PaymentState.PROCESSING,
    "requires_capture": PaymentState.PROCESSING,
    "requires_payment_method": PaymentState.FAILED,
    "requires_action": PaymentState.FAILED,
    "canceled": PaymentState.CANCELED,
}
_REFUND_STATES = {"succeeded": RefundState.SUCCEEDED, "failed": RefundState.FAILED, "canceled": RefundState.FAILED}
_DISPUTE_STATES = {
    "won": DisputeState.WON,
    "warning_closed": DisputeState.WON,
    "prevented": DisputeState.WON,
    "lost": DisputeState.LOST,
}
_PAYMENT_EVENTS = frozenset(
    f"checkout.session.{what}" for what in ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
) | {"payment_intent.succeeded", "payment_intent.payment_failed"}
_REFUND_EVENTS = frozenset({"refund.created", "refund.updated", "refund.failed"})


class Stripe(Checkouts, Cancels, Fetches, ListsPayments, ListsRefunds, Refunds, Disputes, SavedCards, Webhooks):
    """One base address for both modes: the key decides. A webhook endpoint is to be made with `API_VERSION`."""

    slug = "stripe"
    display_name = "Stripe"
    currencies = frozenset(MINOR_DIGITS)
    webhook_headers = ("stripe-signature",)
    # Keys are kept for at least 24 hours.
    charges_repeatable_for = timedelta(hours=23)
    needs_buyer = frozenset({"authentication_required"})
    card_is_over = frozenset(
        {
            *("expired_card", "lost_card", "stolen_card", "pickup_card", "restricted_card", "invalid_account"),
            *("incorrect_number", "fraudulent", "merchant_blacklist", "card_not_supported", "stop_payment_order"),
            *("revocation_of_authorization", "revocation_of_all_authorizations", "security_violation"),
        }
    )

    def __init__(
        self,
        *,
        mode: Mode,
        secret_key: str,
        webhook_secrets: Sequence[str],
        api_url: str = "",
        total_seconds: int = TOTAL_SECONDS,
    ) -> None:
        super().__init__(mode=mode)
        self._secret_key = secret_key
        self._webhook_secrets = tuple(webhook_secrets)
        self._exchange = Exchange(self.slug, api_url or API_URL, trace_header="request-id", total_seconds=total_seconds)

    def problems(self) -> Sequence[Problem]:
        live, test = ("rk_live_", "rk_test_") if self._secret_key.startswith("rk_") else ("sk_live_", "sk_test_")
        return [
            *key_problems(self.mode, self._secret_key, "STRIPE_SECRET_KEY", live=live, test=test),
            *secret_problems(self._webhook_secrets, "STRIPE_WEBHOOK_SECRETS"),
        ]

    def money_refusal(self, money: Money) -> MoneyRefusal | None:
        if money.currency not in MINOR_DIGITS:
            return MoneyRefusal(
                "%(currency)s is not among the currencies that we take through %(gateway)s.",
                currency=money.currency,
                gateway=self.display_name,
            )
        try:
            units = to_units(money, MINOR_DIGITS[money.currency])
        except ValueError:
            return MoneyRefusal("%(money)s has too many decimal places.", money=str(money))
        if 0 < units <= 99_999_999:
            return None
        return MoneyRefusal("Stripe takes at most eight digits of minor units, and more than nothing.")

    def create_checkout(self, request: CheckoutRequest, *, after_unknown: bool = False) -> Checkout:
        """The reference is the idempotency key: asked again within 24 hours, Stripe answers with the first session."""
        self.require(request.money)
        metadata = {"payment_attempt": request.reference, "invoice": request.invoice_number}
        form = {
            "mode": "payment",
            "line_items[0][price_data][currency]": request.money.currency.lower(),
            "line_items[0][price_data][unit_amount]": str(self._units(request.money)),
            "line_items[0][price_data][product_data][name]": request.description[:250],
            "line_items[0][quantity]": "1",
            "success_url": request.success_url,
            "cancel_url": request.cancel_url,
            "client_reference_id": request.reference,
            # Stripe has no Arabic page; `auto` follows the browser.
            "locale": request.language if request.language in ("en", "fr") else "auto",
            "adaptive_pricing[enabled]": "false",
            **_bracketed("metadata", metadata),
            **_bracketed("payment_intent_data[metadata]", metadata),
        }
        if request.email:
            form["customer_email"] = request.email
        if request.expires_at:
            form["expires_at"] = str(int(request.expires_at.timestamp()))
        if request.save_card:
            form |= {"customer_creation": "always", "payment_intent_data[setup_future_usage]": "off_session"}
        session = self._post("/v1/checkout/sessions", form, f"checkout-{request.reference}")
        checkout_id = reading.text(session, "id")
        if not checkout_id:
            raise self._exchange.lost(True, "not_understood", "a session without id")
        # The address is gone once the session is paid or expired: whoever repeats a request learns the state by fetching.
        return Checkout(checkout_id, reading.text(session, "url"), expires_at=reading.instant(session, "expires_at"))

    def cancel_checkout(self, checkout_id: str) -> None:
        path = f"/v1/checkout/sessions/{self._exchange.segment(checkout_id)}"
        answer = self._exchange.call("POST", f"{path}/expire", changes=True, headers=self._headers(), form={})
        if answer.ok:
            return
        if answer.status == 400 and reading.text(self._get(path), "status") == "expired":
            return
        raise self._failure(answer)

    def fetch_payment(self, *, checkout_id: str = "", payment_id: str = "") -> GatewayPayment:
        """A session with its intent, or an intent alone (saved cards); only a session that is paid is money."""
        if not checkout_id and payment_id.startswith("cs_"):
            checkout_id = payment_id
        if not checkout_id or checkout_id.startswith("pi_"):
            return self._from_intent(self._get_intent(payment_id or checkout_id))
        path = f"/v1/checkout/sessions/{self._exchange.segment(checkout_id)}"
        session = self._get(path, {"expand[0]": "payment_intent.latest_charge"})
        intent = reading.object_at(session, "payment_intent")
        money = self._money(reading.whole(session, "amount_total"), reading.text(session, "currency"))
        state = self._session_state(session, intent)
        charge = reading.object_at(intent, "latest_charge")
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=reading.text(session, "id"),
            payment_id=reading.text(intent, "id") or reading.text(session, "payment_intent"),
            reference=reading.text(session, "client_reference_id"),
            money=money,
            state=state,
            mode=_mode(session),
            paid=money if state is PaymentState.PAID else None,
            refunded=self._refunded(charge),
            customer_id=reading.text(session, "customer") or reading.text(intent, "customer"),
            card_id=reading.text(intent, "payment_method"),
            card=_card(charge),
            failure=_intent_failure(intent) if state is PaymentState.FAILED else "",
            raw=session,
        )

    def list_payments(self, *, since: datetime, until: datetime) -> list[GatewayPayment]:
        """Intents: a session makes one when its buyer pays. Those in currencies that we do not know cannot be ours."""
        listed = self._listed("/v1/payment_intents", since, until, {"expand[0]": "data.latest_charge"})
        return [self._from_intent(one) for one in listed if reading.text(one, "currency").upper() in MINOR_DIGITS]

    def list_refunds(self, *, since: datetime, until: datetime) -> list[GatewayRefund]:
        listed = self._listed("/v1/refunds", since, until, {})
        return [self._refund(one) for one in listed if reading.text(one, "currency").upper() in MINOR_DIGITS]

    def refund(self, request: RefundRequest) -> GatewayRefund:
        self.require(request.money)
        form = {
            "payment_intent": request.payment_id,
            "amount": str(self._units(request.money)),
            "reason": "requested_by_customer",
            **_bracketed("metadata", {"refund": request.key}),
        }
        return self._refund(self._post("/v1/refunds", form, f"refund-{request.key}"))

    def fetch_refund(self, refund_id: str) -> GatewayRefund:
        return self._refund(self._get(f"/v1/refunds/{self._exchange.segment(refund_id)}"))

    def fetch_dispute(self, dispute_id: str) -> GatewayDispute:
        data = self._get(f"/v1/disputes/{self._exchange.segment(dispute_id)}")
        return GatewayDispute(
            gateway=self.slug,
            dispute_id=reading.text(data, "id"),
            payment_id=reading.text(data, "payment_intent"),
            money=self._money(reading.whole(data, "amount"), reading.text(data, "currency")),
            state=_DISPUTE_STATES.get(reading.text(data, "status"), DisputeState.OPEN),
            reason=reading.text(data, "reason"),
            raw=data,
        )

    def charge_saved_card(self, charge: SavedCardCharge) -> GatewayPayment:
        self.require(charge.money)
        form = {
            "amount": str(self._units(charge.money)),
            "currency": charge.money.currency.lower(),
            "customer": charge.customer_id,
            "payment_method": charge.card_id,
            "off_session": "true",
            "confirm": "true",
            "description": charge.description[:250],
            **_bracketed("metadata", {"payment_attempt": charge.reference, "invoice": charge.invoice_number}),
        }
        headers = self._headers() | {"Idempotency-Key": f"charge-{charge.reference}"}
        answer = self._exchange.call("POST", "/v1/payment_intents", changes=True, headers=headers, form=form)
        if answer.status == 402:
            # The card said no: the intent tells which, and stays unpaid.
            refused = reading.object_at(answer.data, "error", "payment_intent")
            if refused:
                return self._from_intent(refused)
        if not answer.ok:
            failure = self._failure(answer)
            if failure.code == "idempotency_error":
                # Something was charged under this key before: it is to be looked at.
                raise self._exchange.lost(True, failure.code, failure.message, failure.trace)
            raise failure
        return self._from_intent(self._exchange.understood(answer, changes=True))

    def find_saved_card_charge(self, charge: SavedCardCharge, *, since: datetime) -> GatewayPayment:
        """Among the customer's intents of that day: lists are exact at once, Stripe's search is a minute late."""
        # Their clock may differ from ours.
        margin = timedelta(minutes=5)
        until = since + self.charges_repeatable_for + margin
        for intent in self._listed("/v1/payment_intents", since - margin, until, {"customer": charge.customer_id}):
            if reading.text(intent, "metadata", "payment_attempt") == charge.reference:
                return self._from_intent(self._get_intent(reading.text(intent, "id")))
        raise ObjectNotFound(self.slug, "no_such_charge", f"no charge {charge.reference}")

    def forget_card(self, card_id: str) -> None:
        path = f"/v1/payment_methods/{self._exchange.segment(card_id)}/detach"
        answer = self._exchange.call("POST", path, changes=True, headers=self._headers(), form={})
        if not answer.ok and answer.status not in (400, 404):
            raise self._failure(answer)

    def read_webhook(self, body: bytes, headers: Mapping[str, str], *, now: datetime, token: str = "") -> WebhookEvent:
        self._require_signature(body, headers.get("stripe-signature", ""), int(now.timestamp()))
        event = reading.webhook_object(body)
        if reading.text(event, "object") != "event" or not reading.text(event, "id"):
            raise WebhookRejected(Rejection.BAD_BODY)
        kind = reading.text(event, "type")
        thing = reading.object_at(event, "data", "object")
        subject = _subject(kind)
        identifier = reading.text(thing, "id")
        reference = reading.text(thing, "client_reference_id") or reading.text(thing, "metadata", "payment_attempt")
        return WebhookEvent(
            gateway=self.slug,
            event_id=reading.text(event, "id"),
            type=kind,
            subject=subject,
            payload=event,
            mode=_mode(event),
            reference=reference,
            checkout_id=identifier if identifier.startswith("cs_") else "",
            payment_id=identifier if identifier.startswith("pi_") else reading.text(thing, "payment_intent"),
            refund_id=identifier if subject is Subject.REFUND else "",
            dispute_id=identifier if subject is Subject.DISPUTE else "",
        )

    def _require_signature(self, body: bytes, header: str, now: int) -> None:
        """The scheme v1 over `t.body`, at most 300 seconds away; every other scheme is ignored."""
        parts = [part.partition("=") for part in header.split(",")[:50]]
        times = [value for name, _, value in parts if name.strip() == "t"]
        if not header:
            require_hmac_sha256(self._webhook_secrets, body, [])
        if len(times) != 1 or not (times[0].isascii() and times[0].isdigit() and len(times[0]) <= 12):
            raise WebhookRejected(Rejection.NO_SIGNATURE if not times else Rejection.BAD_SIGNATURE)
        signatures = [value for name, _, value in parts if name.strip() == "v1"]
        require_hmac_sha256(self._webhook_secrets, times[0].encode() + b"." + body, signatures)
        if abs(now - int(times[0])) > TOLERANCE_SECONDS:
            raise WebhookRejected(Rejection.STALE)

    def _session_state(self, session: Mapping[str, Any], intent: Mapping[str, Any]) -> PaymentState:
        status = reading.text(session, "status")
        if status == "expired":
            return PaymentState.EXPIRED
        if status != "complete":
            return PaymentState.OPEN
        if reading.text(session, "payment_status") in ("paid", "no_payment_required"):
            return PaymentState.PAID
        # A slow method: still on its way, or refused after all.
        refused = reading.text(intent, "status") in ("requires_payment_method", "canceled")
        return PaymentState.FAILED if refused else PaymentState.PROCESSING

    def _listed(self, path: str, since: datetime, until: datetime, query: Mapping[str, str]) -> list[dict[str, Any]]:
        created = {"created[gte]": str(int(since.timestamp())), "created[lt]": str(int(until.timestamp()))}
        found: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        for _ in range(LIST_PAGES):
            page = self._get(path, {"limit": str(LIST_SIZE), **created, **query, **after})
            found += reading.objects_at(page, "data")
            if not reading.flag(page, "has_more"):
                return found
            after = {"starting_after": reading.text(found[-1], "id") if found else ""}
        raise self._exchange.lost(False, "too_many", f"more than {LIST_PAGES} pages")

    def _get_intent(self, payment_id: str) -> dict[str, Any]:
        return self._get(f"/v1/payment_intents/{self._exchange.segment(payment_id)}", {"expand[0]": "latest_charge"})

    def _from_intent(self, intent: Mapping[str, Any]) -> GatewayPayment:
        currency = reading.text(intent, "currency")
        state = _INTENT_STATES.get(reading.text(intent, "status"), PaymentState.OPEN)
        received = self._money(reading.whole(intent, "amount_received") or 0, currency)
        return GatewayPayment(
            gateway=self.slug,
            checkout_id="",
            payment_id=reading.text(intent, "id"),
            reference=reading.text(intent, "metadata", "payment_attempt"),
            money=self._money(reading.whole(intent, "amount"), currency),
            state=state,
            mode=_mode(intent),
            paid=received if state is PaymentState.PAID else None,
            refunded=self._refunded(reading.object_at(intent, "latest_charge")),
            customer_id=reading.text(intent, "customer"),
            card_id=reading.text(intent, "payment_method"),
            card=_card(reading.object_at(intent, "latest_charge")),
            failure=_intent_failure(intent) if state is PaymentState.FAILED else "",
            raw=intent,
        )

    def _refund(self, data: Mapping[str, Any]) -> GatewayRefund:
        return GatewayRefund(
            gateway=self.slug,
            refund_id=self._exchange.needed(reading.text(data, "id") or None, "refund id", changes=True),
            payment_id=reading.text(data, "payment_intent"),
            money=self._money(reading.whole(data, "amount"), reading.text(data, "currency"), changes=True),
            state=_REFUND_STATES.get(reading.text(data, "status"), RefundState.PENDING),
            key=reading.text(data, "metadata", "refund"),
            failure=reading.text(data, "failure_reason"),
            raw=data,
        )

    def _refunded(self, charge: Mapping[str, Any]) -> Decimal:
        units = reading.whole(charge, "amount_refunded") or 0
        return self._money(units, reading.text(charge, "currency")).amount if units else Decimal(0)

    def _units(self, money: Money) -> int:
        return to_units(money, MINOR_DIGITS[money.currency])

    def _money(self, units: int | None, currency: str, *, changes: bool = False) -> Money:
        digits = self._exchange.needed(MINOR_DIGITS.get(currency.upper()), "known currency", changes=changes)
        amount = self._exchange.needed(units, "amount", changes=changes)
        if amount < 0:
            raise self._exchange.lost(changes, "not_understood", "an amount below zero")
        return from_units(amount, currency.upper(), digits)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._secret_key}", "Stripe-Version": API_VERSION}

    def _post(self, path: str, form: Mapping[str, str], key: str) -> dict[str, Any]:
        answer = self._exchange.call("POST", path, changes=True, headers=self._headers() | {"Idempotency-Key": key}, form=form)
        if answer.status >= 400:
            raise self._failure(answer)
        return self._exchange.understood(answer, changes=True)

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        answer = self._exchange.call("GET", path, changes=False, headers=self._headers(), query=query)
        if answer.status >= 400:
            raise self._failure(answer)
        return self._exchange.understood(answer, changes=False)

    def _failure(self, answer: Answer) -> GatewayError:
        error = reading.object_at(answer.data, "error")
        code = reading.text(error, "code") or reading.text(error, "type")
        return self._exchange.refused(answer, code, reading.text(error, "message"))


def _bracketed(name: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{name}[{key}]": value for key, value in values.items() if value}


def _mode(data: Mapping[str, Any]) -> Mode | None:
    live = reading.flag(data, "livemode")
    return None if live is None else Mode.LIVE if live else Mode.TEST


def _intent_failure(intent: Mapping[str, Any]) -> str:
    error = reading.object_at(intent, "last_payment_error")
    words = (reading.text(error, "decline_code") or reading.text(error, "code"), reading.text(error, "message"))
    return ": ".join(word for word in words if word)


def _card(charge: Mapping[str, Any]) -> CardFacts | None:
    card = reading.object_at(charge, "payment_method_details", "card")
    if not reading.text(card, "last4"):
        return None
    month, year = reading.whole(card, "exp_month") or 0, reading.whole(card, "exp_year") or 0
    known = 1 <= month <= 12 and 2000 <= year <= 2200
    return CardFacts(
        brand=reading.text(card, "brand")[:32],
        last4=reading.text(card, "last4")[-4:],
        exp_month=month if known else None,
        exp_year=year if known else None,
    )


def _subject(kind: str) -> Subject:
    if kind in _PAYMENT_EVENTS:
        return Subject.PAYMENT
    if kind in _REFUND_EVENTS:
        return Subject.REFUND
    return Subject.DISPUTE if kind.startswith("charge.dispute.") else Subject.OTHER
