"""Which models are refused because nobody knows their price."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from routing.models import ModelPrice, ModelProfile
from routing.pricing import is_priced
from routing.snapshot import Price, TierPrice

from .reading import COLUMNS


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A profile in use without the prices that its model is billed by; `price` is what it has, `next_price` what comes."""

    profile: ModelProfile
    price: ModelPrice | None
    next_price: ModelPrice | None


def unpriced_profiles(*, now: datetime) -> list[Unpriced]:
    """Profiles in use whose calls are refused for want of a price, in two queries."""
    prices: dict[int, list[ModelPrice]] = {}
    for row in ModelPrice.objects.order_by("effective_from"):
        prices.setdefault(row.profile_id, []).append(row)
    found = []
    profiles = ModelProfile.objects.filter(enabled=True, provider__enabled=True).select_related("provider", "model")
    for profile in profiles.order_by("slug"):
        rows = prices.get(profile.pk, [])
        begun = [row for row in rows if row.effective_from <= now]
        present = begun[-1] if begun else None
        if present is None or not is_priced(profile.model.mode, _priced(present)):
            coming = [row for row in rows if row.effective_from > now]
            found.append(Unpriced(profile, present, coming[0] if coming else None))
    return found


def _priced(row: ModelPrice) -> Price:
    base = {name.removesuffix("_per_mtok"): getattr(row, name) for name in COLUMNS}
    units = {name: Decimal(str(value)) for name, value in row.units.items() if value is not None}
    return Price(id=str(row.pk), effective_from=row.effective_from, base=TierPrice(**base), tiers=(), units=units)
