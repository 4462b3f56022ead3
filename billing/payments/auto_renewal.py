"""Automatic renewal: what customers agreed to, the cards they let us keep, and taking both back.

Everything here happens with the account locked, so that a charge (`renewal_charges.py`) and a withdrawal know of each other.
"""

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from billing.accounts.models import Account
from billing.accounts.selectors import uuid_or_404
from billing.accounts.services import task_enqueue
from billing.events.services import SYSTEM, Actor, event_record
from billing.subscriptions.moves import account_lock
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .configuration import gateway_configured
from .gateways.base import GatewayError, GatewayPayment, SavedCards
from .models import AutoRenewalConsent, Payment, SavedCard
from .wording import CONSENT_VERSION, consent_text

logger = logging.getLogger(__name__)

DETACH_TASK = "billing.payments.card_detach"


@dataclass(frozen=True, slots=True)
class Agreement:
    """That a customer agrees to automatic renewal, in the words of a version, as read in a language."""

    wording_version: str
    language: str


def agreement_read(*, wording_version: str, language: str, param: str = "auto_renewal_wording") -> Agreement:
    """The agreement of somebody who read the present wording; ApiError 400 `invalid_request` for another one."""
    if wording_version != CONSENT_VERSION:
        raise ApiError(
            400,
            "invalid_request",
            Text(
                "Automatic renewal is agreed to in the wording %(version)s: show it, and name it here.", version=CONSENT_VERSION
            ),
            param=param,
        )
    return Agreement(wording_version, consent_text(language)[0])


def consent_in_force(account: Account) -> AutoRenewalConsent | None:
    """The consent under which the account's renewals are charged to a card now; None without any."""
    return (
        AutoRenewalConsent.objects.select_related("card")
        .filter(account=account, withdrawn_at__isnull=True, card__isnull=False, card__removed_at__isnull=True)
        .first()
    )


def cards_of_account(account: Account) -> QuerySet[SavedCard]:
    """The cards that the account's customer let us keep, newest first; those taken back are gone."""
    return SavedCard.objects.filter(account=account, removed_at__isnull=True).order_by("-saved_at", "-id")


def card_of_account(*, account: Account, card_id: str | UUID) -> SavedCard:
    """One of them; ApiError 404 `not_found` for another's, for none and for what is no id."""
    card = cards_of_account(account).filter(pk=uuid_or_404(card_id)).first()
    if card is None:
        raise ApiError(404, "not_found", "There is no such object.")
    return card


def consent_give(*, payment: Payment, agreement: Agreement, actor: Actor) -> None:
    """Note that the customer agreed at the checkout of `payment`, before its gateway is asked to keep the card.

    It comes into force when that payment has succeeded and brought its card. Call it in the transaction of the payment's row.
    """
    _consent, made = AutoRenewalConsent.objects.get_or_create(
        payment=payment,
        defaults={
            "account": payment.account,
            "wording_version": agreement.wording_version,
            "language": agreement.language,
            "agreed_at": clock.now(),
            "agreed_by": actor.label,
        },
    )
    if made:
        after = {"wording": agreement.wording_version, "language": agreement.language, "payment": payment.reference}
        _event("agreed", payment.account_id, actor, after=after)


def card_keep(*, payment: Payment, truth: GatewayPayment, actor: Actor) -> None:
    """Keep the card of a payment that succeeded, if its customer agreed; the consent is in force from now on. Once.

    `truth` is what the gateway answered when asked. What was agreed to and taken back meanwhile, or is no card, is not kept:
    the gateway is told to forget it. Call it in the payment's transaction, with the account locked.
    """
    consent = AutoRenewalConsent.objects.select_for_update(no_key=True).filter(payment=payment).first()
    if consent is None or consent.card_id is not None or not truth.card_id or not truth.customer_id:
        return
    usable = truth.card is not None and consent.withdrawn_at is None and payment.account.status != Account.Status.CLOSED
    now = clock.now()
    facts: dict[str, Any] = {
        "account": payment.account,
        "gateway_customer_id": truth.customer_id[:128],
        "saved_at": now,
        "removed_at": None if usable else now,
        "removed_reason": "" if usable else "Not agreed to any more, or no card",
    }
    if truth.card is not None:
        seen = truth.card
        facts |= {"brand": seen.brand, "last4": seen.last4, "exp_month": seen.exp_month, "exp_year": seen.exp_year}
    card, made = SavedCard.objects.get_or_create(
        gateway=payment.gateway, mode=payment.mode, gateway_card_id=truth.card_id[:128], defaults=facts
    )
    if made and not usable:
        _detach_later(card)
    if not usable or card.account_id != payment.account_id or card.removed_at is not None:
        return
    if made:
        _card_event("saved", card, actor, after={"payment": payment.reference})
    _withdraw(payment.account_id, actor, "Another card took its place", except_for=consent)
    consent.card = card
    consent.save(update_fields=["card"])
    _event("began", payment.account_id, actor, after={"card": str(card), "wording": consent.wording_version})


def auto_renewal_agree(
    *, account: Account, agreement: Agreement, actor: Actor, card: SavedCard | None = None
) -> AutoRenewalConsent:
    """Renewals are charged to `card` (the newest one) from now on; agreed to already: nothing happens.

    ApiError 409 `no_saved_card`, `card_expired`.
    """
    with transaction.atomic():
        account = account_lock(account.pk)
        cards = cards_of_account(account)
        card = cards.filter(pk=card.pk).first() if card is not None else cards.first()
        if card is None:
            raise ApiError(409, "no_saved_card", "There is no saved card: pay once, and let us keep it.")
        if card.expired_at(clock.now()):
            raise ApiError(409, "card_expired", "This card has expired.")
        before = consent_in_force(account)
        if before is not None and before.card_id == card.pk and before.wording_version == agreement.wording_version:
            return before
        _withdraw(account.pk, actor, "Agreed to anew")
        consent = AutoRenewalConsent.objects.create(
            account=account,
            card=card,
            wording_version=agreement.wording_version,
            language=agreement.language,
            agreed_at=clock.now(),
            agreed_by=actor.label,
        )
        after = {"card": str(card), "wording": agreement.wording_version, "language": agreement.language}
        _event("agreed", account.pk, actor, after=after)
    return consent


def auto_renewal_withdraw(*, account: Account, actor: Actor, reason: str = "") -> bool:
    """Nothing is charged without the customer any more, what waits for its checkout included; whether anything changed."""
    with transaction.atomic():
        account_lock(account.pk)
        return _withdraw(account.pk, actor, reason or "Taken back")


def card_remove(*, card: SavedCard, actor: Actor, reason: str = "") -> None:
    """Forget a card: it is never charged again, automatic renewal with it ends, and its gateway is told. Safe to repeat."""
    with transaction.atomic():
        account_lock(card.account_id)
        card = SavedCard.objects.select_for_update(no_key=True).get(pk=card.pk)
        if card.removed_at is not None:
            return
        card.removed_at, card.removed_reason = clock.now(), reason[:300]
        card.save(update_fields=["removed_at", "removed_reason"])
        _card_event("removed", card, actor, after={"card": str(card)}, reason=reason)
        if AutoRenewalConsent.objects.filter(card=card, withdrawn_at__isnull=True).exists():
            _withdraw(card.account_id, actor, reason or "The card was removed")
        _detach_later(card)


def card_detach(*, card_id: UUID | str) -> bool:
    """Have the gateway forget a card that was removed; False where it does not answer: the sweep asks again."""
    card = SavedCard.objects.filter(pk=card_id, removed_at__isnull=False, detached_at__isnull=True).first()
    if card is None:
        return False
    adapter = gateway_configured(card.gateway)
    if not isinstance(adapter, SavedCards) or adapter.mode != card.mode:
        logger.warning("card %s cannot be detached: %s is not set up in %s mode", card.pk, card.gateway, card.mode)
        return False
    try:
        adapter.forget_card(card.gateway_card_id)
    except GatewayError as error:
        logger.warning("card %s is not detached yet: %s", card.pk, error)
        return False
    return bool(SavedCard.objects.filter(pk=card.pk, detached_at__isnull=True).update(detached_at=clock.now()))


def cards_sweep(*, limit: int = 200) -> int:
    """Remove the cards of closed accounts, and detach what was removed and is still at its gateway; how many were detached."""
    for card in SavedCard.objects.filter(removed_at__isnull=True, account__status=Account.Status.CLOSED)[:limit]:
        card_remove(card=card, actor=SYSTEM, reason="The account was closed")
    left = SavedCard.objects.filter(removed_at__isnull=False, detached_at__isnull=True).order_by("removed_at")
    return sum(card_detach(card_id=card_id) for card_id in left.values_list("pk", flat=True)[:limit])


def _withdraw(account_id: UUID, actor: Actor, reason: str, *, except_for: AutoRenewalConsent | None = None) -> bool:
    given = AutoRenewalConsent.objects.filter(account=account_id, withdrawn_at__isnull=True)
    if except_for is not None:
        # What waits for its own checkout stays: it takes this one's place when its card comes.
        given = given.filter(card__isnull=False).exclude(pk=except_for.pk)
    in_force = given.filter(card__isnull=False).select_related("card").first()
    if not given.update(withdrawn_at=clock.now(), withdrawn_by=actor.label, withdrawn_reason=reason[:300]):
        return False
    before = {"card": str(in_force.card)} if in_force is not None else {}
    _event("withdrawn", account_id, actor, before=before, after={}, reason=reason)
    return True


def _detach_later(card: SavedCard) -> None:
    card_id = str(card.pk)
    transaction.on_commit(lambda: task_enqueue(DETACH_TASK, card_id))


def _event(
    what: str,
    account_id: UUID,
    actor: Actor,
    *,
    after: dict[str, Any],
    before: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    event_record(
        kind=f"auto_renewal.{what}",
        object_type="account",
        object_id=account_id,
        account_id=account_id,
        actor=actor,
        before=before,
        after=after,
        reason=reason,
    )


def _card_event(what: str, card: SavedCard, actor: Actor, *, after: dict[str, Any], reason: str = "") -> None:
    event_record(
        kind=f"card.{what}",
        object_type="saved_card",
        object_id=card.pk,
        account_id=card.account_id,
        actor=actor,
        after={"gateway": card.gateway, "brand": card.brand, "last4": card.last4} | after,
        reason=reason,
    )
