"""The contract between payments and the gateways: one small interface split by capability, one normal form.

Adapters are plain Python: no Django, no models, no retries of their own, no secret in an error or a log line. Money is a
`Decimal` in major units with its ISO currency; what stands on the wire is each adapter's business. Whatever goes wrong leaves
an adapter as a `GatewayError` (calls) or a `WebhookRejected` (what arrives).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar

CURRENCY = re.compile(r"[A-Z]{3}")
REFERENCE = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in major units (dinars, dollars, rupees) and its ISO 4217 currency in upper case. Never negative."""

    amount: Decimal
    currency: str

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Decimal) or not self.amount.is_finite() or self.amount < 0:
            raise ValueError("the amount of money is a finite Decimal that is not negative")
        if not CURRENCY.fullmatch(self.currency):
            raise ValueError(f"{self.currency!r} is not an ISO 4217 code")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.currency == other.currency and self.amount == other.amount

    def __hash__(self) -> int:
        return hash((self.amount, self.currency))

    def __str__(self) -> str:
        return f"{self.amount.normalize():f} {self.currency}"


def to_units(money: Money, digits: int) -> int:
    """`money` as an integer of the unit `digits` decimal places down; ValueError when that loses anything."""
    units = money.amount.scaleb(digits)
    if units != units.to_integral_value():
        raise ValueError(f"{money} has more than {digits} decimal places")
    return int(units)


def from_units(units: int, currency: str, digits: int) -> Money:
    """The money that stands on the wire as the integer `units`, `digits` decimal places down."""
    return Money(Decimal(units).scaleb(-digits), currency)


class Mode(StrEnum):
    """Whether money is real."""

    TEST = "test"
    LIVE = "live"


class PaymentState(StrEnum):
    """Where a payment stands at its gateway."""

    OPEN = "open"
    """The buyer may still pay."""
    AUTHORISED = "authorised"
    """The buyer agreed; nothing moves until we capture."""
    PROCESSING = "processing"
    """Decided by neither side yet: look again."""
    PAID = "paid"
    FAILED = "failed"
    """Refused; at some gateways money may still come."""
    EXPIRED = "expired"
    CANCELED = "canceled"


class RefundState(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class DisputeState(StrEnum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


class Subject(StrEnum):
    """What a webhook speaks about."""

    PAYMENT = "payment"
    REFUND = "refund"
    DISPUTE = "dispute"
    OTHER = "other"
    """Nothing that concerns us: answer 2xx and forget."""


class GatewayError(Exception):
    """A call that did not do what it was asked.

    `code` is the gateway's own word for it or one of ours, `message` may be shown to operators, `trace` is the gateway's id of
    the request. None of them holds a secret.
    """

    def __init__(self, gateway: str, code: str, message: str, *, trace: str = "") -> None:
        super().__init__(f"{gateway}: {code}: {message}")
        self.gateway = gateway
        self.code = code
        self.message = message
        self.trace = trace


class GatewayUnavailable(GatewayError):
    """Certainly not done: unreachable, too busy, or only a read. Try again, or another gateway."""


class OutcomeUnknown(GatewayError):
    """The request may have been carried out: sent, and no answer that says so. Repeat it with the same key, or look it up."""


class GatewayRefused(GatewayError):
    """The gateway understood and said no: certainly not done, and asking again gets the same answer."""


class GatewayMisconfigured(GatewayRefused):
    """Our credentials are wrong or lack a right: an operator has to act."""


class ObjectNotFound(GatewayError):
    """The gateway knows no such object under our credentials."""


class MoneyNotAccepted(GatewayError):
    """This gateway cannot take this amount or currency; nothing was sent."""


class Rejection(StrEnum):
    """Why something that arrived was not believed."""

    NO_SECRET = "no_secret"  # noqa: S105
    NO_SIGNATURE = "no_signature"
    BAD_SIGNATURE = "bad_signature"
    STALE = "stale"
    BAD_BODY = "bad_body"
    FOREIGN_CERTIFICATE = "foreign_certificate"


class WebhookRejected(Exception):
    """What arrived is not the gateway's word: forged, damaged, too old, or nothing to check it with. Answer 400."""

    def __init__(self, reason: Rejection) -> None:
        super().__init__(reason.value)
        self.reason = reason


class MoneyRefusal:
    """Why a gateway cannot take an amount: `text` with its named values, for `Text` to translate; `str()` is English."""

    __slots__ = ("text", "values")

    def __init__(self, text: str, /, **values: object) -> None:
        self.text = text
        self.values = values

    def __str__(self) -> str:
        return self.text % self.values


@dataclass(frozen=True, slots=True)
class CheckoutRequest:
    """What the buyer shall pay, and where the browser and the webhooks go.

    `reference` is our attempt's name: unique, and on PayU at most 25 letters and digits. It doubles as the idempotency key.
    `expires_at` is honoured where the gateway can (Stripe: 30 minutes to 24 hours ahead, Razorpay: at least 15 minutes).
    `save_card` asks for the right to charge later without the buyer (Stripe).
    """

    reference: str
    money: Money
    description: str
    success_url: str
    cancel_url: str
    webhook_url: str = ""
    invoice_number: str = ""
    email: str = ""
    name: str = ""
    phone: str = ""
    language: str = "en"
    expires_at: datetime | None = None
    save_card: bool = False

    def __post_init__(self) -> None:
        if not REFERENCE.fullmatch(self.reference):
            raise ValueError("a reference is 1 to 40 letters, digits, - or _")
        if self.money.amount <= 0:
            raise ValueError("a checkout asks for more than nothing")


@dataclass(frozen=True, slots=True)
class Checkout:
    """What the gateway made: send the buyer's browser to `url`, or let it post `form_fields` to `form_action`."""

    checkout_id: str
    url: str = ""
    form_action: str = ""
    form_fields: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a cardholder knows a card by. Never its number."""

    brand: str
    last4: str
    exp_month: int | None = None
    exp_year: int | None = None


@dataclass(frozen=True, slots=True)
class GatewayPayment:
    """What the gateway says about a payment when asked: the truth that webhooks only hint at.

    `money` is what it was asked for, `paid` what really came (None until something did), `refunded` how much of that went back.
    `mode` is None where the gateway's answer does not say; the host and the key decide there. `card_id` is the card it keeps
    for us, where it keeps one, and `card` what it looks like. `failure` is `code: message`.
    """

    gateway: str
    checkout_id: str
    payment_id: str
    reference: str
    money: Money
    state: PaymentState
    mode: Mode | None
    paid: Money | None = None
    refunded: Decimal = Decimal(0)
    customer_id: str = ""
    card_id: str = ""
    card: CardFacts | None = None
    failure: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """Send `money` of a payment back. `key` is unique per refund, 10 to 23 letters and digits, and makes repeating it safe."""

    key: str
    payment_id: str
    money: Money
    reason: str = ""
    webhook_url: str = ""


@dataclass(frozen=True, slots=True)
class GatewayRefund:
    """What the gateway says about a refund. `key` is ours when the gateway repeats it, else empty."""

    gateway: str
    refund_id: str
    payment_id: str
    money: Money
    state: RefundState
    key: str = ""
    failure: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GatewayDispute:
    """What the gateway says about a payment that its payer contests."""

    gateway: str
    dispute_id: str
    payment_id: str
    money: Money
    state: DisputeState
    reason: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SavedCardCharge:
    """Charge a card that the buyer let us keep, without the buyer. `reference` as in `CheckoutRequest`."""

    reference: str
    money: Money
    customer_id: str
    card_id: str
    description: str
    invoice_number: str = ""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A verified webhook: `event_id` is unique per gateway, the ids say what to fetch. It proves nothing about money.

    `signed` is False where the gateway signs nothing and only a token in the address vouches for it.
    """

    gateway: str
    event_id: str
    type: str
    subject: Subject
    payload: Mapping[str, Any]
    mode: Mode | None = None
    signed: bool = True
    reference: str = ""
    checkout_id: str = ""
    payment_id: str = ""
    refund_id: str = ""
    dispute_id: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a gateway's settings: `kind` is `live_key`, `test_key`, `no_key` or `no_webhook_secret`."""

    kind: str
    setting: str
    message: str


def key_problems(mode: Mode, key: str, setting: str, *, live: str, test: str) -> list[Problem]:
    """What is wrong with a key whose beginning tells its mode: `live` or `test`."""
    if not key:
        return [Problem("no_key", setting, f"{setting} is empty")]
    if mode is Mode.TEST and key.startswith(live):
        return [Problem("live_key", setting, f"{setting} is a live key, but payments run in test mode")]
    if not key.startswith(live if mode is Mode.LIVE else test):
        return [Problem("test_key", setting, f"{setting} is no key of {mode} mode")]
    return []


def secret_problems(secrets: Sequence[str], setting: str) -> list[Problem]:
    """What is wrong with the secrets that webhooks are checked with: none, or an empty one among them."""
    if not secrets or not all(secrets):
        return [Problem("no_webhook_secret", setting, f"{setting} is empty or holds an empty secret")]
    return []


class Gateway(ABC):
    """A payment gateway, ready to be called with the credentials of one mode. Instances may be shared by threads."""

    slug: ClassVar[str]
    display_name: ClassVar[str]
    currencies: ClassVar[frozenset[str]]

    def __init__(self, *, mode: Mode) -> None:
        self.mode = mode

    @abstractmethod
    def money_refusal(self, money: Money) -> MoneyRefusal | None:
        """Why this gateway cannot take `money`; None when it can. Asks nobody."""

    @abstractmethod
    def problems(self) -> Sequence[Problem]:
        """What is wrong with the settings it was made from; a gateway with problems must not be offered. Asks nobody."""

    def other_currency_refusal(self, currency: str, money: Money) -> MoneyRefusal:
        """The refusal of `money` by a gateway that takes `currency` alone."""
        told = {"gateway": self.display_name, "taken": currency, "currency": money.currency}
        return MoneyRefusal("%(gateway)s takes %(taken)s only, not %(currency)s.", **told)

    def require(self, money: Money) -> None:
        """Raises `MoneyNotAccepted` when this gateway cannot take `money`."""
        if refusal := self.money_refusal(money):
            raise MoneyNotAccepted(self.slug, "money_not_accepted", str(refusal))


class Checkouts(Gateway):
    """Lets a buyer pay on the gateway's page."""

    @abstractmethod
    def create_checkout(self, request: CheckoutRequest, *, after_unknown: bool = False) -> Checkout:
        """Opens a checkout; moves no money. The same request again leads to the same checkout.

        `after_unknown` says that an earlier try ended as OutcomeUnknown: gateways without idempotency look for its work first.
        Raises MoneyNotAccepted, GatewayRefused, GatewayUnavailable or OutcomeUnknown.
        """


class Cancels(Gateway):
    """Can close a checkout that nobody paid."""

    @abstractmethod
    def cancel_checkout(self, checkout_id: str) -> None:
        """The buyer can pay it no longer; closed before is fine. Raises GatewayRefused when it is paid or being paid."""


class Fetches(Gateway):
    """Says what really happened to a payment."""

    @abstractmethod
    def fetch_payment(self, *, checkout_id: str = "", payment_id: str = "") -> GatewayPayment:
        """The payment of a checkout, or the one with the gateway's own payment id. Moves nothing.

        Raises ObjectNotFound, GatewayRefused or GatewayUnavailable.
        """


class ListsPayments(Gateway):
    """Can list what happened, for a comparison with our books."""

    @abstractmethod
    def list_payments(self, *, since: datetime, until: datetime) -> list[GatewayPayment]:
        """Every payment that began there in [since, until), those that failed included. Moves nothing.

        A hint like a webhook: a list may lack our reference, the checkout or what went back; `fetch_payment` has the truth.
        Raises GatewayRefused (we may not list) or GatewayUnavailable; never answers a part.
        """


class ListsRefunds(Gateway):
    """Can list what went back."""

    @abstractmethod
    def list_refunds(self, *, since: datetime, until: datetime) -> list[GatewayRefund]:
        """Every refund that began there in [since, until). A hint; raises as `list_payments`."""


class Captures(Gateway):
    """Has payments that wait for us after the buyer agreed."""

    @abstractmethod
    def capture_payment(self, payment: GatewayPayment) -> GatewayPayment:
        """Takes the money of an AUTHORISED payment; one captured before is answered as it stands. Moves money.

        Raises GatewayRefused (the buyer must choose another means), GatewayUnavailable or OutcomeUnknown; repeating is safe.
        """


class Refunds(Gateway):
    """Sends money back."""

    @abstractmethod
    def refund(self, request: RefundRequest) -> GatewayRefund:
        """Sends money back, once per `request.key`. Moves money.

        Raises GatewayRefused, GatewayUnavailable or OutcomeUnknown; repeating with the same key is safe.
        """

    @abstractmethod
    def fetch_refund(self, refund_id: str) -> GatewayRefund:
        """The refund as it stands. Raises ObjectNotFound, GatewayRefused or GatewayUnavailable."""


class Disputes(Gateway):
    """Tells what became of a contested payment."""

    @abstractmethod
    def fetch_dispute(self, dispute_id: str) -> GatewayDispute:
        """The dispute as it stands. Raises ObjectNotFound, GatewayRefused or GatewayUnavailable."""


class SavedCards(Gateway):
    """Can charge a card that the buyer let us keep."""

    charges_repeatable_for: ClassVar[timedelta]
    """How long a charge repeated with its reference is certainly the same one; afterwards only look it up."""
    needs_buyer: ClassVar[frozenset[str]]
    """Codes of `failure` that say: the bank wants the cardholder to confirm."""
    card_is_over: ClassVar[frozenset[str]]
    """Codes of `failure` after which charging the same card again is pointless."""

    @abstractmethod
    def charge_saved_card(self, charge: SavedCardCharge) -> GatewayPayment:
        """Charges at once, without the buyer, once per reference. Moves money.

        A refused card is a payment in state FAILED. Raises ObjectNotFound for a card that is gone, GatewayRefused,
        GatewayUnavailable or OutcomeUnknown.
        """

    @abstractmethod
    def find_saved_card_charge(self, charge: SavedCardCharge, *, since: datetime) -> GatewayPayment:
        """The charge with this reference, asked for at `since` or later, as it stands; moves nothing.

        Raises ObjectNotFound where there is none, GatewayRefused or GatewayUnavailable.
        """

    @abstractmethod
    def forget_card(self, card_id: str) -> None:
        """The card cannot be charged any more; forgotten before is fine."""


class Webhooks(Gateway):
    """Receives events."""

    webhook_headers: ClassVar[tuple[str, ...]] = ()
    """Names of the headers that verification needs, in lower case: what to keep of a request."""

    @abstractmethod
    def read_webhook(self, body: bytes, headers: Mapping[str, str], *, now: datetime, token: str = "") -> WebhookEvent:
        """The event in `body`, exactly as received; `headers` by lower-case name, `token` from the address.

        Raises WebhookRejected, or GatewayUnavailable when what it is to be checked with cannot be had now.
        """


class Returns(Gateway):
    """Signs what the buyer's browser brings back."""

    @abstractmethod
    def read_return(self, fields: Mapping[str, str]) -> WebhookEvent:
        """What the browser brought, as a hint like a webhook. Raises WebhookRejected."""


def differences(payment: GatewayPayment, *, reference: str, money: Money, mode: Mode) -> list[str]:
    """Where the gateway's truth departs from what we asked: each as `field: theirs, not ours`. Empty: the payment is ours."""
    found = []
    if payment.reference != reference:
        found.append(f"reference: {payment.reference or 'none'}, not {reference}")
    for name, theirs in (("amount", payment.money), ("paid", payment.paid)):
        if theirs is not None and theirs != money:
            found.append(f"{name}: {theirs}, not {money}")
    if payment.mode is not None and payment.mode != mode:
        found.append(f"mode: {payment.mode}, not {mode}")
    return found
