"""Moving running subscriptions to another price: shown before it is done, in force from each one's next period."""

from dataclasses import dataclass
from decimal import Decimal

from django.db import transaction
from django.db.models import QuerySet

from billing.events.services import Actor
from billing.plans.models import PlanPrice
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO

from .models import Subscription
from .moves import subscription_event, subscription_lock
from .settlement import next_invoice_withdraw

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
    """Running subscriptions of the price's plan in its currency that renew at another price."""
    running = Subscription.objects.filter(
        plan=price.plan,
        state__in=Subscription.LIVE,
        price__currency=price.currency,
        next_plan__isnull=True,
        cancel_at_period_end=False,
    )
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


def _renews_at(subscription: Subscription) -> PlanPrice:
    price = subscription.next_price or subscription.price
    assert price is not None
    return price
