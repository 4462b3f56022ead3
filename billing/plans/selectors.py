"""Reading the offer."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import Prefetch

from .models import FxRate, Plan, PlanPrice


@dataclass(frozen=True, slots=True)
class Offer:
    """A public plan and its price in each currency."""

    plan: Plan
    prices: tuple[PlanPrice, ...]

    @property
    def is_free(self) -> bool:
        """Whether holding the plan costs nothing."""
        return not any(price.amount for price in self.prices)

    @property
    def is_metered_only(self) -> bool:
        """Whether nothing is included: every call is paid from bought credits. The front page and the panel say so."""
        plan = self.plan
        return self.is_free and plan.billing_mode == Plan.BillingMode.CREDITS and not plan.period_credits


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


def fx_rate_at(currency: str, at: datetime) -> Decimal | None:
    """Units of `currency` per US dollar at `at`; None where no rate is known."""
    if currency == "USD":
        return Decimal(1)
    rates = FxRate.objects.filter(base="USD", quote=currency, effective_from__lte=at)
    return rates.order_by("-effective_from").values_list("rate", flat=True).first()
