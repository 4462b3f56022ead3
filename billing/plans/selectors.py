"""Reading the offer."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Prefetch

from .models import Plan, PlanPrice


@dataclass(frozen=True, slots=True)
class Offer:
    """A public plan and its price in each currency."""

    plan: Plan
    prices: tuple[PlanPrice, ...]


def public_offers(*, at: datetime) -> list[Offer]:
    """Public plans in the order of the catalogue, with the prices in force at `at`; two queries."""
    known = PlanPrice.objects.filter(effective_from__lte=at).order_by("currency", "-effective_from")
    offers = []
    for plan in Plan.objects.filter(visibility=Plan.Visibility.PUBLIC).prefetch_related(Prefetch("prices", known)):
        latest: dict[str, PlanPrice] = {}
        for price in plan.prices.all():
            latest.setdefault(price.currency, price)
        offers.append(Offer(plan, tuple(latest.values())))
    return offers
