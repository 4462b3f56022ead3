"""Paying without a gateway: bank transfer, CCP, cash. The customer pays and sends a proof; an operator confirms or rejects."""

import hashlib
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import Q, QuerySet

from billing.accounts.models import Account
from billing.events.services import Actor, event_record
from billing.invoices.models import Invoice
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .models import ManualMethod, Payment, PaymentProof
from .services import payment_create, payment_lock, payment_move, payment_succeeded

GATEWAY = "manual"
# A transfer takes days.
PAY_WITHIN = timedelta(days=7)
PROOF_BYTES = 5 * 1024 * 1024
PROOFS_PER_PAYMENT = 5
# What a proof may be, by its first bytes: what it calls itself is not believed.
_SIGNATURES = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
)


def manual_methods(*, account: Account, currency: str) -> QuerySet[ManualMethod]:
    """The ways in which `account` may pay in `currency`."""
    here = Q(countries__contains=[account.country]) | Q(countries=[])
    return ManualMethod.objects.filter(here, is_enabled=True, currencies__contains=[currency])


def manual_method(*, account: Account, currency: str, code: str = "") -> ManualMethod:
    """The way `code`, or the first there is. ApiError 400 `invalid_request` for one that is not offered here,
    409 `no_gateway` where none is."""
    methods = manual_methods(account=account, currency=currency)
    method = methods.filter(code=code).first() if code else methods.first()
    if method is None and code:
        raise ApiError(400, "invalid_request", Text("%(method)s is not offered here.", method=code), param="method")
    if method is None:
        raise ApiError(409, "no_gateway", Text("There is no way to pay in %(currency)s here.", currency=currency))
    return method


def manual_payment_begin(
    *, invoice: Invoice, method: ManualMethod, purpose: str, actor: Actor, idempotency_key: str | None = None
) -> Payment:
    """An attempt to pay by hand, waiting for the customer's money. Raises as `payment_create`."""
    with transaction.atomic():
        payment = payment_create(
            invoice=invoice,
            purpose=purpose,
            gateway=GATEWAY,
            method=method.code,
            actor=actor,
            expires_at=clock.now() + PAY_WITHIN,
            idempotency_key=idempotency_key,
        )
        if payment.state != Payment.State.CREATED:
            return payment
        return payment_move(payment=payment, to=Payment.State.PENDING, actor=actor)


def proof_add(*, payment: Payment, content: bytes, file_name: str, actor: Actor, customer_reference: str = "") -> PaymentProof:
    """Keep a customer's proof with a manual payment; the same file again changes nothing.

    A PNG, JPEG or PDF of at most 5 MB: else ApiError 400 `proof_not_readable`, 413 `body_too_large`. 409 `payment_not_open`,
    `too_many_proofs`.
    """
    if len(content) > PROOF_BYTES:
        raise ApiError(413, "body_too_large", "A proof is at most 5 MB.")
    content_type = next((kind for start, kind in _SIGNATURES if content.startswith(start)), None)
    if content_type is None:
        raise ApiError(400, "proof_not_readable", "A proof is a PNG, a JPEG or a PDF.", param="file")
    digest = hashlib.sha256(content).hexdigest()
    with transaction.atomic():
        payment = payment_lock(payment.pk)
        known = payment.proofs.filter(sha256=digest).first()
        if known is not None:
            return known
        if payment.gateway != GATEWAY or payment.state == Payment.State.SUCCEEDED:
            raise ApiError(409, "payment_not_open", "This payment waits for no proof.")
        if payment.proofs.count() >= PROOFS_PER_PAYMENT:
            raise ApiError(409, "too_many_proofs", "This payment has enough proofs.")
        if customer_reference:
            payment.customer_reference = customer_reference[:200]
            payment.save(update_fields=["customer_reference", "updated_at"])
        proof = PaymentProof.objects.create(
            payment=payment,
            file_name=file_name[-200:] or "proof",
            content_type=content_type,
            content=content,
            size=len(content),
            sha256=digest,
            uploaded_by=actor.label,
            uploaded_at=clock.now(),
        )
        event_record(
            kind="payment.proof_added",
            object_type="payment",
            object_id=payment.pk,
            account_id=payment.account_id,
            actor=actor,
            after={"reference": payment.reference, "sha256": digest, "customer_reference": payment.customer_reference},
        )
    return proof


def manual_confirm(
    *, payment: Payment, actor: Actor, reason: str, received: Decimal | None = None, paid_at: datetime | None = None
) -> Payment:
    """An operator has seen the money, in time or late: late money is money. Raises as `payment_succeeded`."""
    _only_manual(payment)
    return payment_succeeded(payment=payment, actor=actor, received=received, paid_at=paid_at, reason=reason)


def manual_reject(*, payment: Payment, actor: Actor, reason: str) -> Payment:
    """An operator has not found the money. Raises PaymentMoveRefused."""
    _only_manual(payment)
    return payment_move(
        payment=payment,
        to=Payment.State.FAILED,
        actor=actor,
        reason=reason,
        failure_code="rejected",
        failure_message=reason,
    )


def manual_payments_expire(*, actor: Actor, now: datetime | None = None) -> int:
    """Close manual payments whose time is over and for which no proof waits; returns how many."""
    now = now or clock.now()
    over = Payment.objects.filter(gateway=GATEWAY, state=Payment.State.PENDING, expires_at__lte=now, proofs__isnull=True)
    count = 0
    for payment in over.order_by("expires_at"):
        payment_move(payment=payment, to=Payment.State.EXPIRED, actor=actor, reason="Not paid in time")
        count += 1
    return count


def _only_manual(payment: Payment) -> None:
    if payment.gateway != GATEWAY:
        raise ApiError(409, "payment_not_manual", "Only payments by hand are confirmed by hand.")
