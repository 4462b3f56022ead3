"""Publishing a plan: its terms, prices and routing written together, after its economics were seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction

from billing.events.services import SYSTEM, Actor, event_record
from billing.plans.models import Plan, plan_price_at
from billing.plans.services import plan_change, plan_create, plan_price_add
from billing.subscriptions.models import Subscription
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .economics import EVERY_MODEL, PlanEconomics, plan_economics, risk_accepted
from .models import AiModel, ModelProfile, PlanRouting
from .price_import.selectors import unpriced_profiles

# How a plan's calls find a provider: taken over from another plan as a whole.
WAY_FIELDS = ("strategy", "split", "score_weights", "fallback", "default_models", "provider_pin_allowed", "most_attempts")
# What is set for the plan itself.
OWN_FIELDS = (
    "models_allowed",
    "free_only",
    "context_cap",
    "cost_allowance_usd",
    "margin_multiplier",
    "usd_per_credit",
    "expected_messages",
    "expected_cost_usd",
)


@dataclass(frozen=True, slots=True)
class OfferPrice:
    """What a period costs in one currency, and a credit beyond those included on metered plans."""

    currency: str
    amount: Decimal
    overage_amount: Decimal | None = None


@dataclass(frozen=True, slots=True)
class PlanOffer:
    """A plan as it is to be: `terms` of `PLAN_FIELDS` without visibility, `routing` of `OWN_FIELDS`, the way of `like`."""

    code: str
    terms: Mapping[str, Any]
    prices: Sequence[OfferPrice]
    tax_included: bool
    routing: Mapping[str, Any]
    like: PlanRouting


@dataclass(frozen=True, slots=True)
class OfferPreview:
    """What an offer earns and may cost, and models in it that are not served."""

    economics: PlanEconomics
    unpriced: list[str] = field(default_factory=list)
    """Public names of models in the plan whose price is not known."""
    unserved: list[str] = field(default_factory=list)
    """Public names in the plan that no provider in use serves."""

    @property
    def has_risk(self) -> bool:
        return self.economics.can_lose_money


def plan_is_draft(plan: Plan) -> bool:
    """Whether a plan can still be changed as a whole: not on sale, and nobody ever had it."""
    return plan.visibility == Plan.Visibility.HIDDEN and not Subscription.objects.filter(plan=plan).exists()


def offer_preview(offer: PlanOffer) -> OfferPreview:
    """Reckon an offer by writing it and taking everything back. Raises ApiError as `plan_publish`."""
    with transaction.atomic():
        plan = _write(offer, Plan.Visibility.PUBLIC, SYSTEM, "preview")
        # Prices take effect with the clock's reading, which may stand still.
        economics = plan_economics(plan, at=clock.now() + timedelta(seconds=1))
        assert economics is not None
        transaction.set_rollback(True)
    allowed = set(offer.routing["models_allowed"])

    def included(name: str) -> bool:
        return EVERY_MODEL in allowed or name in allowed

    unpriced = {row.profile.model.name for row in unpriced_profiles(now=clock.now()) if included(row.profile.model.name)}
    served = set(
        ModelProfile.objects.filter(enabled=True, provider__enabled=True).values_list("model__name", flat=True).distinct()
    )
    unserved = sorted(allowed - served - {EVERY_MODEL})
    return OfferPreview(economics, sorted(unpriced), unserved)


def plan_publish(
    *, offer: PlanOffer, publish: bool, replaces: Plan | None, accept_risk: bool, actor: Actor, reason: str
) -> Plan:
    """Write a plan with prices and routing, on sale or as a draft, and take the one that it replaces off sale.

    Whoever has the replaced plan keeps it as it was sold. All or nothing. Raises ApiError 409 `already_exists` for the code of
    a plan that is on sale or that somebody has, 409 `risk_not_accepted` for a plan on sale that can lose money, 400.
    """
    if not reason.strip():
        raise ApiError(400, "invalid_request", "Say why.", param="reason")
    visibility = Plan.Visibility.PUBLIC if publish else Plan.Visibility.HIDDEN
    with transaction.atomic():
        plan = _write(offer, visibility, actor, reason)
        if publish:
            economics = plan_economics(plan, at=clock.now() + timedelta(seconds=1))
            assert economics is not None
            if economics.can_lose_money:
                if not accept_risk:
                    told = "On these terms the plan can lose money: confirm that you have seen it."
                    raise ApiError(409, "risk_not_accepted", told, param="accept_risk")
                risk_accepted(economics=economics, actor=actor, reason=reason)
        if replaces is not None and replaces.pk != plan.pk:
            plan_change(plan=replaces, values={"visibility": Plan.Visibility.ARCHIVED}, actor=actor, reason=reason)
    return plan


def _write(offer: PlanOffer, visibility: str, actor: Actor, reason: str) -> Plan:
    existing = Plan.objects.select_for_update(no_key=True).filter(code=offer.code).first()
    values = {**offer.terms, "visibility": visibility}
    if existing is None:
        plan = plan_create(code=offer.code, values=values, actor=actor, reason=reason)
    elif plan_is_draft(existing):
        plan = plan_change(plan=existing, values=values, actor=actor, reason=reason)
    else:
        told = "There is a plan of this code that is on sale or was sold: give the new one another code."
        raise ApiError(409, "already_exists", told, param="code")
    if not offer.prices:
        raise ApiError(400, "invalid_request", "A plan has a price, which may be 0.", param="prices")
    for price in offer.prices:
        present = plan_price_at(plan, price.currency, clock.now())
        same = (price.amount, offer.tax_included, price.overage_amount)
        if present is None or (present.amount, present.tax_included, present.overage_amount) != same:
            plan_price_add(
                plan=plan,
                currency=price.currency,
                amount=price.amount,
                tax_included=offer.tax_included,
                overage_amount=price.overage_amount,
                actor=actor,
                reason=reason,
            )
    _routing_write(plan, offer, actor, reason)
    return plan


def _routing_write(plan: Plan, offer: PlanOffer, actor: Actor, reason: str) -> None:
    names = sorted(set(offer.routing["models_allowed"]) - {EVERY_MODEL})
    known = set(AiModel.objects.filter(name__in=names).values_list("name", flat=True))
    if unknown := sorted(set(names) - known):
        raise ApiError(400, "invalid_request", Text("There is no model %(model)s.", model=unknown[0]), param="models_allowed")
    values = {name: getattr(offer.like, name) for name in WAY_FIELDS} | dict(offer.routing)
    routing = PlanRouting.objects.filter(plan=plan).first()
    before = {} if routing is None else {name: _plain(getattr(routing, name)) for name in values}
    made = routing or PlanRouting(plan=plan)
    for name, value in values.items():
        setattr(made, name, value)
    try:
        made.full_clean(validate_unique=False)
    except ValidationError as error:
        name, said = next(iter(error.message_dict.items()))
        raise ApiError(400, "invalid_request", " ".join(said), param=None if name == NON_FIELD_ERRORS else name) from None
    after = {name: _plain(getattr(made, name)) for name in values}
    if before == after:
        return
    made.save()
    changed = [name for name in after if before.get(name) != after[name]]
    event_record(
        kind="plan_routing.created" if routing is None else "plan_routing.edited",
        object_type="plan_routing",
        object_id=plan.pk,
        actor=actor,
        before={name: before[name] for name in changed if name in before},
        after={name: after[name] for name in changed},
        reason=reason,
    )


def _plain(value: Any) -> Any:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else value
