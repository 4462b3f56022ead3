"""Beginning to pay at a gateway: the attempt's row first, then the gateway, then the next gateway when it does not answer."""

import logging
from datetime import timedelta
from decimal import Decimal

from django.conf import settings
from django.db import transaction
from django.urls import reverse

from billing.accounts.models import Account
from billing.events.services import Actor
from billing.invoices.models import Invoice
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .auto_renewal import Agreement, consent_give
from .configuration import gateways_offered
from .gateways.base import Checkout, CheckoutRequest, Checkouts, GatewayError, Money, OutcomeUnknown, SavedCards
from .manual import manual_methods, manual_payment_begin
from .models import AutoRenewalConsent, Payment
from .polling import poll_at
from .services import payment_create, payment_move

logger = logging.getLogger(__name__)

State = Payment.State
# Stripe and Razorpay close their pages after this long; at most 24 hours are possible.
PAYABLE_FOR = timedelta(hours=23)


def gateways_usable(*, amount: Decimal, currency: str) -> list[Checkouts]:
    """The gateways that take this money, the preferred one first."""
    money = Money(amount, currency)
    return [one for one in gateways_offered() if isinstance(one, Checkouts) and not one.money_refusal(money)]


def checkout_open(
    *,
    invoice: Invoice,
    purpose: str,
    actor: Actor,
    gateway: str = "",
    language: str = "",
    agreement: Agreement | None = None,
    idempotency_key: str | None = None,
) -> Payment:
    """Open a way to pay what is due of an invoice or draft: at `gateway`, or the preferred one, then at the others in turn.

    When no gateway can, by hand where the currency has a way. The answer waits for its customer at `checkout_url`, or by hand.
    With an `agreement` gateways that can keep the card come first, and are asked to. A repeated `idempotency_key` answers the
    first payment. ApiError 400 `invalid_request` for a gateway that cannot take this money or keep a card, 409 `nothing_due`,
    503 `gateways_unavailable`.
    """
    if idempotency_key is not None:
        first = Payment.objects.filter(account=invoice.account_id, idempotency_key=idempotency_key).first()
        if first is not None and (first.gateway == "manual" or first.state != State.CREATED):
            return first
    usable = gateways_usable(amount=invoice.due, currency=invoice.currency)
    if gateway and gateway not in [one.slug for one in usable]:
        raise ApiError(
            400,
            "invalid_request",
            Text(
                "%(gateway)s does not take %(amount)s %(currency)s.",
                gateway=gateway,
                amount=invoice.due,
                currency=invoice.currency,
            ),
            param="gateway",
        )
    if agreement is not None:
        keepers = [one.slug for one in usable if isinstance(one, SavedCards)]
        if not keepers or (gateway and gateway not in keepers):
            raise ApiError(400, "invalid_request", "No card can be kept for renewals this way.", param="auto_renewal")
        usable.sort(key=lambda one: one.slug not in keepers)
    usable.sort(key=lambda one: one.slug != gateway)
    for adapter in usable:
        payment = _attempt(invoice, purpose, adapter, actor, language, agreement, idempotency_key)
        if payment.state == State.PENDING:
            return payment
    # Cash bears stamp duty, which was not asked for here.
    method = manual_methods(account=invoice.account, currency=invoice.currency).filter(is_cash=False).first()
    if method is None:
        raise ApiError(
            503, "gateways_unavailable", "No payment gateway answers now; nothing was charged.", retry_after_seconds=60
        )
    return manual_payment_begin(invoice=invoice, method=method, purpose=purpose, actor=actor, idempotency_key=idempotency_key)


def _attempt(
    invoice: Invoice,
    purpose: str,
    adapter: Checkouts,
    actor: Actor,
    language: str,
    agreement: Agreement | None,
    key: str | None,
) -> Payment:
    """One payment at one gateway: PENDING when the customer may pay it, else FAILED or UNKNOWN, and its key is free again."""
    with transaction.atomic():
        payment = payment_create(
            invoice=invoice,
            purpose=purpose,
            gateway=adapter.slug,
            mode=adapter.mode.value,
            expires_at=clock.now() + PAYABLE_FOR,
            actor=actor,
            idempotency_key=key,
        )
        if payment.gateway != adapter.slug or payment.state != State.CREATED:
            return payment
        if agreement is not None and isinstance(adapter, SavedCards):
            consent_give(payment=payment, agreement=agreement, actor=actor)
    request = checkout_request(payment, language=language)
    again = payment.created_at < clock.now() - timedelta(seconds=30)
    try:
        checkout = adapter.create_checkout(request, after_unknown=again)
    except GatewayError as error:
        logger.warning("payment %s: %s", payment.reference, error)
        return _not_opened(payment, error, actor)
    return _opened(payment, checkout, actor)


def checkout_request(payment: Payment, *, language: str = "") -> CheckoutRequest:
    """What a gateway is asked for: the payment's money, its reference, and the addresses that lead back here.

    The card is to be kept where the customer agreed to that at this checkout.
    """
    account: Account = payment.account
    assert payment.invoice is not None
    line = payment.invoice.lines.first()
    back = settings.PUBLIC_URL + reverse("payment-return", args=[payment.reference])
    if payment.gateway == "payu":
        # Its browsers come back with a POST.
        back = settings.PUBLIC_URL + reverse("payment-payu-return")
    return CheckoutRequest(
        reference=payment.reference,
        money=Money(payment.amount, payment.currency),
        description=line.description if line else payment.reference,
        success_url=back,
        cancel_url=back,
        webhook_url=settings.PUBLIC_URL + reverse("payment-webhook", args=[payment.gateway]),
        invoice_number=payment.invoice.number or "",
        email=account.billing_email or _owner_email(account),
        name=account.name,
        language=language or account.language,
        expires_at=payment.expires_at,
        save_card=AutoRenewalConsent.objects.filter(payment=payment, withdrawn_at__isnull=True).exists(),
    )


def _owner_email(account: Account) -> str:
    owner = account.personal_of or next((one.user for one in account.memberships.select_related("user").order_by("pk")), None)
    return owner.email if owner else ""


def _opened(payment: Payment, checkout: Checkout, actor: Actor) -> Payment:
    url = checkout.url
    if checkout.form_action:
        # A page of ours posts the form.
        url = settings.PUBLIC_URL + reverse("payment-pay", args=[payment.reference])
    return payment_move(
        payment=payment,
        to=State.PENDING,
        actor=actor,
        checkout_id=checkout.checkout_id,
        checkout_url=url,
        form_action=checkout.form_action,
        form_fields=dict(checkout.form_fields),
        expires_at=checkout.expires_at or payment.expires_at,
        next_poll_at=poll_at(payment.created_at, 0),
    )


def _not_opened(payment: Payment, error: GatewayError, actor: Actor) -> Payment:
    unknown = isinstance(error, OutcomeUnknown)
    with transaction.atomic():
        return payment_move(
            payment=payment,
            to=State.UNKNOWN if unknown else State.FAILED,
            actor=actor,
            failure_code=error.code,
            failure_message=error.message,
            idempotency_key=None,
            next_poll_at=poll_at(payment.created_at, 0) if unknown else None,
        )
