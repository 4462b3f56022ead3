"""Paying an invoice that was issued: what the account brought before is counted, then a way to pay the rest is opened."""

from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction

from billing.events.services import Actor
from billing.invoices.models import Invoice
from billing.subscriptions.moves import account_lock
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .auto_renewal import Agreement
from .checkout import checkout_open
from .closing import invoice_checkouts_close
from .manual import GATEWAY as MANUAL
from .manual import manual_methods, manual_payment_begin
from .models import ManualMethod, Payment
from .money_in_hand import invoice_money_count

State = Payment.State
# A checkout that ends sooner is not handed out again.
LEFT_TO_PAY = timedelta(minutes=5)
# Whoever pays while the saved card is being charged would pay twice; its outcome is known by then, or asked for by the poll.
CHARGE_TAKES = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class PayWish:
    """How a customer wants to pay an invoice: at a gateway (the preferred one), or by hand in a way (the first)."""

    gateway: str = ""
    method: str = ""
    agreement: Agreement | None = None

    @property
    def by_hand(self) -> bool:
        return self.gateway == MANUAL or self.method != ""


def payable_require(invoice: Invoice) -> None:
    """ApiError 409 for an invoice that nobody can pay: `invoice_paid`, `invoice_void`, `nothing_due`."""
    if invoice.kind == Invoice.Kind.INVOICE and invoice.state == Invoice.State.PAID:
        raise ApiError(409, "invoice_paid", "This invoice is paid.")
    if invoice.kind == Invoice.Kind.INVOICE and invoice.state == Invoice.State.VOID:
        raise ApiError(409, "invoice_void", "This invoice was voided: nothing is to be paid.")
    payable = invoice.state in (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE)
    if invoice.kind != Invoice.Kind.INVOICE or not payable or invoice.due <= 0:
        raise ApiError(409, "nothing_due", "Nothing is due on this invoice.")


def invoice_order(
    *, invoice: Invoice, wish: PayWish, actor: Actor, language: str = "", idempotency_key: str | None = None
) -> Payment | None:
    """The open checkout of an invoice, or a new one; None where what the account brought before pays all of it.

    Another way than the open one closes that first. ApiError 409 as `payable_require`, `charge_in_progress` while the saved
    card is being charged; 422 `idempotency_mismatch` for a key that opened another payment; and as `checkout_open`.
    """
    return _order(invoice, wish, actor, language, idempotency_key, anew=False)


def invoice_retry(
    *, invoice: Invoice, wish: PayWish, actor: Actor, language: str = "", idempotency_key: str | None = None
) -> Payment | None:
    """A new checkout of an invoice after an earlier one, which is closed if it is still open. Raises as `invoice_order`;
    ApiError 409 `nothing_to_retry` where nobody tried before."""
    if not Payment.objects.filter(invoice=invoice).exists():
        raise ApiError(409, "nothing_to_retry", "Nobody tried to pay this invoice yet.")
    return _order(invoice, wish, actor, language, idempotency_key, anew=True)


def _order(
    invoice: Invoice, wish: PayWish, actor: Actor, language: str, idempotency_key: str | None, *, anew: bool
) -> Payment | None:
    payable_require(invoice)
    if idempotency_key is not None:
        first = Payment.objects.filter(account=invoice.account, idempotency_key=idempotency_key).first()
        if first is not None and first.invoice_id != invoice.pk:
            raise ApiError(422, "idempotency_mismatch", "This Idempotency-Key stands for another payment.")
        if first is not None and first.state != State.CREATED:
            return first
    method = _method(invoice, wish)
    with transaction.atomic():
        account_lock(invoice.account_id)
        _no_charge_under_way(invoice)
        invoice = invoice_money_count(invoice=invoice, actor=actor)
        if invoice.state == Invoice.State.PAID:
            return None
    usable = None if anew else _open_payment(invoice, wish)
    if usable is not None:
        return usable
    # An answer that pays the invoice after all is booked on the way.
    invoice_checkouts_close(invoice_id=invoice.pk, actor=actor, reason="Another way to pay was chosen")
    with transaction.atomic():
        account_lock(invoice.account_id)
        invoice.refresh_from_db()
        payable_require(invoice)
        # Two who ask at once for the same come to the same checkout.
        number = Payment.objects.filter(invoice=invoice).exclude(state=State.CREATED).count()
        key = idempotency_key or f"order:{invoice.pk}:{number}:{wish.gateway or wish.method}"
    if method is not None:
        return manual_payment_begin(
            invoice=invoice, method=method, purpose=Payment.Purpose.INVOICE, actor=actor, idempotency_key=key
        )
    return checkout_open(
        invoice=invoice,
        purpose=Payment.Purpose.INVOICE,
        actor=actor,
        gateway=wish.gateway,
        language=language,
        agreement=wish.agreement,
        idempotency_key=key,
    )


def _method(invoice: Invoice, wish: PayWish) -> ManualMethod | None:
    """The way by hand that was wished for; ApiError 400 `invalid_request`, 409 `no_gateway`.

    Not cash: its stamp duty would have to stand on the invoice.
    """
    if not wish.by_hand:
        return None
    if wish.agreement is not None:
        raise ApiError(400, "invalid_request", "No card can be kept for renewals this way.", param="auto_renewal")
    methods = manual_methods(account=invoice.account, currency=invoice.currency)
    if invoice.stamp_total == 0:
        methods = methods.filter(is_cash=False)
    method = methods.filter(code=wish.method).first() if wish.method else methods.first()
    if method is None and wish.method:
        raise ApiError(
            400, "invalid_request", Text("%(method)s is not offered for this invoice.", method=wish.method), param="method"
        )
    if method is None:
        raise ApiError(409, "no_gateway", Text("There is no way to pay in %(currency)s here.", currency=invoice.currency))
    return method


def _no_charge_under_way(invoice: Invoice) -> None:
    charges = Payment.objects.filter(invoice=invoice, saved_card__isnull=False)
    if charges.filter(
        state__in=(State.CREATED, State.PENDING, State.UNKNOWN), created_at__gt=clock.now() - CHARGE_TAKES
    ).exists():
        raise ApiError(409, "charge_in_progress", "The saved card is being charged for this invoice.", retry_after_seconds=120)


def _open_payment(invoice: Invoice, wish: PayWish) -> Payment | None:
    """What the customer can go on with: open, of what is due now, as wished for."""
    found = Payment.objects.filter(
        invoice=invoice, state=State.PENDING, saved_card__isnull=True, amount=invoice.due, currency=invoice.currency
    )
    if wish.by_hand:
        found = found.filter(gateway=MANUAL)
        if wish.method:
            found = found.filter(method=wish.method)
    elif wish.gateway:
        found = found.filter(gateway=wish.gateway)
    if wish.agreement is not None:
        found = found.filter(consent__withdrawn_at__isnull=True, consent__isnull=False)
    in_time = found.filter(expires_at__gt=clock.now() + LEFT_TO_PAY)
    return in_time.order_by("-created_at").first()
