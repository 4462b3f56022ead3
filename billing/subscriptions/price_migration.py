"""Moving running subscriptions to another price: shown before it is done, in force from each one's next period."""

import logging
from dataclasses import dataclass
from decimal import Decimal

from django.db import transaction
from django.db.models import QuerySet

from billing.events.services import SYSTEM, Actor, event_record
from billing.plans.models import Plan, PlanPrice
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO

from .models import PriceMove, Subscription
from .moves import subscription_event, subscription_lock
from .settlement import next_invoice_withdraw

logger = logging.getLogger(__name__)

SHOWN = 50


@dataclass(frozen=True, slots=True)
class MigrationPreview:
    """Whom a price would concern and what they would pay together, per period; the first of them by name."""

    price: PlanPrice
    subscriptions: int
    paid_now: Decimal
    paid_then: Decimal
    first: tuple[Subscription, ...]


def price_migration_candidates(price: PlanPrice) -> QuerySet[Subscription]:
    """Running subscriptions of the price's plan in its currency that renew at another price.

    A price to come concerns those whose next period begins when it is in force.
    """
    running = Subscription.objects.filter(
        plan=price.plan,
        state__in=Subscription.LIVE,
        price__currency=price.currency,
        next_plan__isnull=True,
        cancel_at_period_end=False,
    )
    if price.effective_from > clock.now():
        running = running.filter(current_period_end__gte=price.effective_from)
    others = running.exclude(price=price, next_price__isnull=True).exclude(next_price=price)
    return others.select_related("account", "price", "next_price").order_by("created_at", "id")


def price_migration_preview(price: PlanPrice) -> MigrationPreview:
    """Who would be moved to `price`, and how much that is; changes nothing."""
    found = list(price_migration_candidates(price))
    now = sum((_renews_at(subscription).amount for subscription in found), ZERO)
    return MigrationPreview(price, len(found), now, price.amount * len(found), tuple(found[:SHOWN]))


def price_migrate(*, price: PlanPrice, actor: Actor, reason: str) -> int:
    """Have every running subscription of the plan renew at `price`; returns how many. Running periods stay as they were paid.

    Each in a transaction of its own, with an event; safe to repeat. A next period that is paid already keeps its price.
    """
    moved = 0
    for pk in list(price_migration_candidates(price).values_list("pk", flat=True)):
        with transaction.atomic():
            subscription = subscription_lock(pk)
            if not price_migration_candidates(price).filter(pk=pk).exists():
                continue
            try:
                next_invoice_withdraw(subscription, actor, "The price changes")
            except ApiError:
                continue
            before = {"price": str(_renews_at(subscription))}
            subscription.next_price = None if subscription.price_id == price.pk else price
            subscription.save(update_fields=["next_price"])
            subscription_event("price_migrated", subscription, actor, before=before, after={"price": str(price)}, reason=reason)
            moved += 1
    return moved


def price_move_begin(*, price: PlanPrice, actor: Actor, reason: str) -> PriceMove:
    """Have running subscriptions renew at a price from their first period in which it is in force; `price_moves_run` does it.

    One price of a plan and currency at a time. Raises ApiError 409 `price_move_open`, 400 `invalid_request` without a reason.
    """
    if not reason.strip():
        raise ApiError(400, "invalid_request", "Say why.", param="reason")
    with transaction.atomic():
        # Two at once go one after the other.
        Plan.objects.select_for_update(no_key=True).get(pk=price.plan_id)
        open_ones = PriceMove.objects.filter(
            price__plan_id=price.plan_id, price__currency=price.currency, finished_at__isnull=True
        )
        if open_ones.exclude(price=price).exists():
            told = "Subscriptions of this plan are being moved to another price: wait for its end, or stop it."
            raise ApiError(409, "price_move_open", told, param="moving")
        move, new = PriceMove.objects.get_or_create(
            price=price, defaults={"reason": reason[:200], "requested_by": actor.label[:200], "created_at": clock.now()}
        )
        if new:
            _event("begun", move, actor, reason)
    return move


def price_moves_run() -> int:
    """Move whoever is to be moved to the price of an open move, and end moves that have nobody left; how many were moved.

    Safe to repeat and to run twice at once. A next period that is paid already keeps its price; the one after it does not.
    """
    moved = 0
    for move in PriceMove.objects.filter(finished_at__isnull=True).select_related("price__plan").order_by("created_at"):
        try:
            moved += _run(move)
        except Exception:
            # The others have nothing to do with it; it is tried again.
            logger.exception("the move to price %s failed", move.price_id)
    return moved


def price_move_stop(*, move: PriceMove, actor: Actor, reason: str) -> PriceMove:
    """Move nobody else; who renews at the price by now stays so. Again is the same."""
    with transaction.atomic():
        move = PriceMove.objects.select_for_update().get(pk=move.pk)
        if move.finished_at is None:
            move.finished_at, move.is_stopped = clock.now(), True
            move.save(update_fields=["finished_at", "is_stopped"])
            _event("stopped", move, actor, reason)
    return move


def _run(move: PriceMove) -> int:
    count = price_migrate(price=move.price, actor=SYSTEM, reason=move.reason)
    with transaction.atomic():
        locked = PriceMove.objects.select_for_update().get(pk=move.pk)
        locked.moved += count
        in_force = move.price.effective_from <= clock.now()
        ends = locked.finished_at is None and in_force and not price_migration_candidates(move.price).exists()
        if ends:
            locked.finished_at = clock.now()
        if count or ends:
            locked.save(update_fields=["moved", "finished_at"])
        if ends:
            _event("finished", locked, SYSTEM, move.reason)
    return count


def _event(what: str, move: PriceMove, actor: Actor, reason: str) -> None:
    price = move.price
    after = {
        "plan": price.plan.code,
        "price": str(price),
        "effective_from": price.effective_from.isoformat(),
        "moved": move.moved,
    }
    event_record(
        kind=f"price_move.{what}", object_type="price_move", object_id=move.pk, actor=actor, after=after, reason=reason
    )


def _renews_at(subscription: Subscription) -> PlanPrice:
    price = subscription.next_price or subscription.price
    assert price is not None
    return price
