"""PayU India: the buyer's browser posts a form to PayU and comes back with one. Amounts are texts in rupees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

from . import reading
from .base import (
    Checkout,
    CheckoutRequest,
    Checkouts,
    Fetches,
    GatewayPayment,
    GatewayRefund,
    GatewayRefused,
    ListsPayments,
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
    secret_problems,
    to_units,
)
from .exchange import TOTAL_SECONDS, Exchange
from .signatures import same

PAY_URLS = {Mode.TEST: "https://test.payu.in/_payment", Mode.LIVE: "https://secure.payu.in/_payment"}
API_URLS = {
    Mode.TEST: "https://test.payu.in/merchant/postservice.php",
    Mode.LIVE: "https://info.payu.in/merchant/postservice.php",
}
PAISE_DIGITS = 2
LONGEST_TXNID = 25
LONGEST_TOKEN = 23
MAX_FIELDS = 200
# What the server API takes and says without a zone is Indian time.
INDIA = timezone(timedelta(hours=5, minutes=30))
# Its lists have no pages: short stretches keep an answer small.
LIST_STRETCH = timedelta(hours=3)

_UDFS = ("udf1", "udf2", "udf3", "udf4", "udf5")
_REQUEST_FIELDS = ("key", "txnid", "amount", "productinfo", "firstname", "email", *_UDFS)
_GIVEN_UP = frozenset({"usercancelled", "cancelled", "dropped", "bounced"})
_LISTED_PAID = frozenset({"captured", "success"})
_REFUND_STATES = {"success": RefundState.SUCCEEDED, "failure": RefundState.FAILED}


def _sha512(parts: Sequence[str]) -> str:
    return hashlib.sha512("|".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def request_hash(fields: Mapping[str, str], salt: str) -> str:
    """What vouches for a payment form: SHA-512 over its fields in order, five empty ones, and the salt."""
    return _sha512([*(fields.get(name, "") for name in _REQUEST_FIELDS), "", "", "", "", "", salt])


def response_hash(fields: Mapping[str, str], *, key: str, salt: str) -> str:
    """What vouches for a return or a webhook: the same fields backwards after salt and status, with our own key and salt."""
    charges = fields.get("additionalCharges") or fields.get("additional_charges") or ""
    backwards = [fields.get(name, "") for name in reversed(_REQUEST_FIELDS[1:])]
    ours = [salt, fields.get("status", ""), "", "", "", "", "", *backwards, key]
    return _sha512([charges, *ours] if charges else ours)


def command_hash(*, key: str, command: str, var1: str, salt: str) -> str:
    """What vouches for a call of the server API; only its first variable is covered."""
    return _sha512([key, command, var1, salt])


class PayU(Checkouts, Fetches, ListsPayments, Refunds, Webhooks, Returns):
    """`webhook_tokens` guard what PayU does not sign (refunds, disputes): one of them stands in the webhook's address."""

    slug = "payu"
    display_name = "PayU"
    currencies = frozenset({"INR"})

    def __init__(
        self,
        *,
        mode: Mode,
        merchant_key: str,
        salts: Sequence[str],
        webhook_tokens: Sequence[str] = (),
        api_url: str = "",
        pay_url: str = "",
        total_seconds: int = TOTAL_SECONDS,
    ) -> None:
        """The first of `salts` signs what we send, all of them are believed."""
        super().__init__(mode=mode)
        self._key = merchant_key
        self._salts = tuple(salts)
        self._webhook_tokens = tuple(webhook_tokens)
        self._pay_url = pay_url or PAY_URLS[mode]
        self._api_url = api_url or API_URLS[mode]
        self._exchange = Exchange(self.slug, self._api_url, total_seconds=total_seconds)

    def problems(self) -> Sequence[Problem]:
        found = [] if self._key else [Problem("no_key", "PAYU_MERCHANT_KEY", "PAYU_MERCHANT_KEY is empty")]
        found += secret_problems(self._salts, "PAYU_SALTS")
        if "" in self._webhook_tokens:
            found += secret_problems(self._webhook_tokens, "PAYU_WEBHOOK_TOKENS")
        return found

    def money_refusal(self, money: Money) -> MoneyRefusal | None:
        if money.currency not in self.currencies:
            return self.other_currency_refusal("INR", money)
        try:
            to_units(money, PAISE_DIGITS)
        except ValueError:
            return MoneyRefusal("%(money)s has too many decimal places.", money=str(money))
        return None if money.amount >= 1 else MoneyRefusal("%(gateway)s takes 1 rupee at least.", gateway=self.display_name)

    def create_checkout(self, request: CheckoutRequest, *, after_unknown: bool = False) -> Checkout:
        """Asks nobody: the form is what the buyer's browser posts, and the same request makes the same form."""
        self.require(request.money)
        if len(request.reference) > LONGEST_TXNID or not request.reference.isalnum():
            raise GatewayRefused(
                self.slug, "invalid_fields", f"a reference here has at most {LONGEST_TXNID} letters and digits"
            )
        fields = {
            "key": self._key,
            "txnid": request.reference,
            "amount": f"{request.money.amount:.2f}",
            "productinfo": _plain(request.description, 100) or "Payment",
            "firstname": _plain(request.name, 60) or "Customer",
            "email": request.email.strip()[:50],
            "phone": "".join(sign for sign in request.phone if sign.isdigit())[-10:] or "0000000000",
            "udf1": _plain(request.invoice_number, 255),
            **dict.fromkeys(_UDFS[1:], ""),
            "surl": request.success_url,
            "furl": request.cancel_url,
            **({"notifyurl": request.webhook_url} if request.webhook_url else {}),
        }
        # A bar would shift the fields behind it.
        if any("|" in fields[name] for name in _REQUEST_FIELDS) or not fields["email"]:
            raise GatewayRefused(self.slug, "invalid_fields", "PayU needs an e-mail address, and none with a bar in it")
        fields["hash"] = request_hash(fields, self._salt())
        return Checkout(request.reference, form_action=self._pay_url, form_fields=fields)

    def fetch_payment(self, *, checkout_id: str = "", payment_id: str = "") -> GatewayPayment:
        """Raises ObjectNotFound, too, for a form that was not posted yet."""
        if checkout_id:
            found = self._command("verify_payment", self._exchange.segment(checkout_id), changes=False)
            entry = reading.object_at(found, "transaction_details", checkout_id)
        else:
            found = self._command("check_payment", self._exchange.segment(payment_id), changes=False)
            entry = reading.object_at(found, "transaction_details")
        if not entry:
            raise self._exchange.lost(False, "not_understood", "no transaction in the answer")
        mihpayid, status = reading.text(entry, "mihpayid"), reading.text(entry, "status").lower()
        if "not found" in (mihpayid.lower(), status) or not mihpayid:
            raise ObjectNotFound(self.slug, "not_found", "no such transaction")
        amount = reading.text(entry, "transaction_amount") or reading.text(entry, "amt")
        money = self._exchange.needed(reading.decimal_money(amount, "INR"), "amount")
        state = _state(status, reading.text(entry, "unmappedstatus").lower())
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=reading.text(entry, "txnid") or checkout_id,
            payment_id=mihpayid,
            reference=reading.text(entry, "txnid") or checkout_id,
            money=money,
            state=state,
            mode=None,
            paid=money if state is PaymentState.PAID else None,
            failure="" if state is PaymentState.PAID else _failure_of(entry),
            raw=entry,
        )

    def list_payments(self, *, since: datetime, until: datetime) -> list[GatewayPayment]:
        found: list[GatewayPayment] = []
        start = since
        while start < until:
            end = min(start + LIST_STRETCH, until)
            # Both ends count.
            first, last = (f"{at.astimezone(INDIA):%Y-%m-%d %H:%M:%S}" for at in (start, end - timedelta(seconds=1)))
            data = self._command("get_transaction_info", first, changes=False, var2=last)
            if not isinstance(data.get("Transaction_details"), list):
                # Which words mean that there was nothing is not documented: whoever asked looks its own payments up instead.
                raise GatewayRefused(self.slug, "not_listed", reading.text(data, "msg") or "no list")
            found += [self._listed(entry) for entry in reading.objects_at(data, "Transaction_details")]
            start = end
        return found

    def _listed(self, entry: Mapping[str, Any]) -> GatewayPayment:
        money = self._exchange.needed(reading.decimal_money(reading.text(entry, "amount"), "INR"), "amount")
        status = reading.text(entry, "status").lower()
        state = PaymentState.PAID if status in _LISTED_PAID else PaymentState.PROCESSING
        return GatewayPayment(
            gateway=self.slug,
            checkout_id=reading.text(entry, "txnid"),
            payment_id=reading.text(entry, "id"),
            reference=reading.text(entry, "txnid"),
            money=money,
            state=state,
            mode=None,
            paid=money if state is PaymentState.PAID else None,
            raw=entry,
        )

    def refund(self, request: RefundRequest) -> GatewayRefund:
        """PayU queues it. A key it knows is refused: then the refund of that key is looked up."""
        self.require(request.money)
        if len(request.key) > LONGEST_TOKEN:
            raise GatewayRefused(self.slug, "invalid_fields", f"a refund's key here has at most {LONGEST_TOKEN} characters")
        amount = f"{request.money.amount:.2f}"
        callback = {"var5": request.webhook_url} if request.webhook_url else {}
        variables = {"var2": request.key, "var3": amount, **callback}
        data = self._command("cancel_refund_transaction", request.payment_id, changes=True, **variables)
        refund_id = reading.text(data, "request_id")
        if reading.text(data, "status") == "1" and refund_id:
            return GatewayRefund(
                self.slug, refund_id, request.payment_id, request.money, RefundState.PENDING, request.key, raw=data
            )
        if reading.text(data, "status") != "0":
            raise self._exchange.lost(True, "not_understood", "neither queued nor refused")
        for refund in self._refunds(request.payment_id, var2="payuid"):
            if refund.key == request.key:
                return refund
        raise GatewayRefused(self.slug, reading.text(data, "error_code") or "refused", reading.text(data, "msg"))

    def fetch_refund(self, refund_id: str) -> GatewayRefund:
        for refund in self._refunds(self._exchange.segment(refund_id)):
            if refund.refund_id == refund_id:
                return refund
        raise ObjectNotFound(self.slug, "not_found", "no such refund")

    def read_webhook(self, body: bytes, headers: Mapping[str, str], *, now: datetime, token: str = "") -> WebhookEvent:
        """Payments come as the form of a return, with its hash. Refunds and disputes come as JSON that nothing signs."""
        if body.lstrip()[:1] == b"{":
            return self._read_unsigned(body, token)
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
        except ValueError:
            raise WebhookRejected(Rejection.BAD_BODY) from None
        if len(dict(pairs)) != len(pairs):
            raise WebhookRejected(Rejection.BAD_BODY)
        return self.read_return(dict(pairs))

    def read_return(self, fields: Mapping[str, str]) -> WebhookEvent:
        """PayU's own id, the way of paying and the detailed status are not covered by the hash: they must be fetched."""
        salts = [salt for salt in self._salts if salt]
        if not salts or not self._key:
            raise WebhookRejected(Rejection.NO_SECRET)
        if not fields.get("hash"):
            raise WebhookRejected(Rejection.NO_SIGNATURE)
        theirs = fields["hash"].lower()
        matches = [same(theirs, response_hash(fields, key=self._key, salt=salt)) for salt in salts]
        if not any(matches):
            raise WebhookRejected(Rejection.BAD_SIGNATURE)
        if fields.get("key") != self._key or not fields.get("txnid"):
            raise WebhookRejected(Rejection.BAD_BODY)
        status, mihpayid = fields.get("status", ""), fields.get("mihpayid", "")
        return WebhookEvent(
            gateway=self.slug,
            event_id=f"{fields['txnid']}:{status}:{mihpayid}"[:200],
            type=f"payment.{status}",
            subject=Subject.PAYMENT,
            payload={name: value for name, value in fields.items() if name != "hash"},
            reference=fields["txnid"],
            checkout_id=fields["txnid"],
            payment_id=mihpayid,
        )

    def _read_unsigned(self, body: bytes, token: str) -> WebhookEvent:
        tokens = [known for known in self._webhook_tokens if known]
        if not tokens:
            raise WebhookRejected(Rejection.NO_SECRET)
        matches = [same(token, known) for known in tokens]
        if not any(matches):
            raise WebhookRejected(Rejection.BAD_SIGNATURE if token else Rejection.NO_SIGNATURE)
        event = reading.webhook_object(body)
        refund_id, dispute_id = reading.text(event, "request_id"), reading.text(event, "cb_id")
        if refund_id and reading.text(event, "key") == self._key:
            status = reading.text(event, "status")
            return WebhookEvent(
                gateway=self.slug,
                event_id=f"refund:{refund_id}:{status}"[:200],
                type=f"refund.{status}"[:100],
                subject=Subject.REFUND,
                payload=event,
                signed=False,
                reference=reading.text(event, "merchantTxnId"),
                checkout_id=reading.text(event, "merchantTxnId"),
                payment_id=reading.text(event, "mihpayid"),
                refund_id=refund_id,
            )
        if dispute_id and reading.text(event, "event") == "dispute":
            return WebhookEvent(
                gateway=self.slug,
                event_id=f"dispute:{dispute_id}:{reading.text(event, 'cb_status')}"[:200],
                type="dispute",
                subject=Subject.DISPUTE,
                payload=event,
                signed=False,
                payment_id=reading.text(event, "txn_id"),
                dispute_id=dispute_id,
            )
        raise WebhookRejected(Rejection.BAD_BODY)

    def _refunds(self, var1: str, **variables: str) -> list[GatewayRefund]:
        """The refunds that `check_action_status` lists; its answer is nested twice."""
        data = self._command("check_action_status", var1, changes=False, **variables)
        found = []
        for group in reading.object_at(data, "transaction_details").values():
            for entry in group.values() if isinstance(group, dict) else ():
                money = reading.decimal_money(reading.text(entry, "amt"), "INR")
                if reading.text(entry, "action") in ("refund", "cancel") and money:
                    found.append(
                        GatewayRefund(
                            gateway=self.slug,
                            refund_id=reading.text(entry, "request_id"),
                            payment_id=reading.text(entry, "mihpayid"),
                            money=money,
                            state=_REFUND_STATES.get(reading.text(entry, "status").lower(), RefundState.PENDING),
                            key=reading.text(entry, "token"),
                            raw=entry,
                        )
                    )
        return found

    def _command(self, command: str, var1: str, *, changes: bool, **variables: str) -> dict[str, Any]:
        vouched = command_hash(key=self._key, command=command, var1=var1, salt=self._salt())
        form = {"key": self._key, "command": command, "var1": var1, **variables, "hash": vouched, "form": "2"}
        answer = self._exchange.call("POST", self._api_url, changes=changes, form=form, query={"form": "2"})
        return self._exchange.understood(answer, changes=changes)

    def _salt(self) -> str:
        if not self._salts or not self._salts[0]:
            raise GatewayRefused(self.slug, "no_salt", "PAYU_SALTS is empty")
        return self._salts[0]


def _plain(words: str, limit: int) -> str:
    return words.replace("|", "/").strip()[:limit].strip()


def _state(status: str, detail: str) -> PaymentState:
    if status == "success":
        return PaymentState.PAID if detail == "captured" else PaymentState.PROCESSING
    if status == "failure":
        return PaymentState.CANCELED if detail in _GIVEN_UP else PaymentState.FAILED
    return PaymentState.PROCESSING


def _failure_of(entry: Mapping[str, Any]) -> str:
    words = (reading.text(entry, "error_code"), reading.text(entry, "error_Message") or reading.text(entry, "field9"))
    return ": ".join(word for word in words if word)
