"""What a plan earns, what we expect it to cost, and what it can cost us at most: from the catalogue and stated assumptions.

All figures are of one subscription and one period, in USD, before tax, payment fees and free trials. `PlanEconomics` keeps the
inputs beside the results, so that whoever reads it can check the sum.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from django.db import transaction
from django.db.models import Q

from billing.events.services import Actor, event_record
from billing.plans.models import CreditPack, FxRate, Plan, PlanPrice
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO, plain, usd_quantise
from iafactory.common.texts import Amount, Text

from .models import AiModel, ModelProfile, PlanRouting

CENT = Decimal("0.01")
DAYS_A_MONTH = 30
EVERY_MODEL = "*"
# Rounded half up to whole credits, a call is charged 1 credit for what comes to just under 1.5.
WHOLE_CREDIT_EXCESS = Decimal("1.5")


def cents(amount: Decimal) -> Decimal:
    """USD for reading, rounded half up to the cent."""
    return amount.quantize(CENT, ROUND_HALF_UP)


def percent(share: Decimal) -> int:
    """A share for reading, rounded half up to the whole percent."""
    return int((share * 100).quantize(Decimal(1), ROUND_HALF_UP))


@dataclass(frozen=True, slots=True)
class ProviderShare:
    """What one provider is expected to take of a plan's messages, and what a message costs there (None: not assumed)."""

    provider: str
    share: Decimal
    cost_per_message_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class PlanEconomics:
    """A plan's figures per period. None is unknown; an unknown worst case is one that nothing bounds."""

    plan: Plan
    routing: PlanRouting
    price: PlanPrice | None
    rate: FxRate | None
    revenue_usd: Decimal | None
    """The price at the operator's rate; of several currencies the one that earns least."""
    worst_cost_usd: Decimal | None
    worst_because: Text
    credit_cost_usd: Decimal
    """The most that a credit spent on this plan can cost us."""
    credit_sold_usd: Decimal | None
    """The least that a bought credit earned; None where none are sold, or the plan takes none."""
    overage_usd: Decimal | None
    """What a credit beyond those included earns, on metered plans."""
    months: Decimal
    messages: Decimal | None
    shares: tuple[ProviderShare, ...]
    expected_cost_usd: Decimal | None

    @property
    def expected_margin(self) -> Decimal | None:
        """Share of the price that is expected to stay, None without a price or an expectation."""
        return self._margin(self.expected_cost_usd)

    @property
    def worst_margin(self) -> Decimal | None:
        """Share of the price that stays at the worst, below zero for a loss."""
        return self._margin(self.worst_cost_usd)

    def _margin(self, cost: Decimal | None) -> Decimal | None:
        if not self.revenue_usd or cost is None:
            return None
        return (self.revenue_usd - cost) / self.revenue_usd

    @property
    def cost_per_message_usd(self) -> Decimal | None:
        """What an average message is expected to cost; None where a provider's cost is not assumed."""
        costs = [share.share * share.cost_per_message_usd for share in self.shares if share.cost_per_message_usd is not None]
        return sum(costs, ZERO) if costs and len(costs) == len(self.shares) else None

    @property
    def break_even_messages(self) -> int | None:
        """From how many messages a period costs more than it earns; None where that is not known or never so."""
        cost = self.cost_per_message_usd
        return int(self.revenue_usd / cost) if self.revenue_usd is not None and cost else None

    @property
    def break_even_credits(self) -> int | None:
        """From how many credits used a period may cost more than it earns; None on quota plans, or where it never does."""
        if self.plan.billing_mode == Plan.BillingMode.QUOTA or self.revenue_usd is None or not self.credit_cost_usd:
            return None
        return int(self.revenue_usd / self.credit_cost_usd)

    def profit(self, users: int) -> tuple[Decimal | None, Decimal | None]:
        """What `users` subscriptions leave in a period: as expected, and at the worst."""
        expected, worst = self.expected_cost_usd, self.worst_cost_usd
        if self.revenue_usd is None:
            return None, None
        return (
            None if expected is None else (self.revenue_usd - expected) * users,
            None if worst is None else (self.revenue_usd - worst) * users,
        )

    @property
    def risks(self) -> list[str]:
        """How the plan can lose money, one sentence each in the reader's language; empty when it cannot."""
        return [risk.translated() for risk in self.risk_texts]

    @property
    def risk_texts(self) -> list[Text]:
        """The sentences of `risks`, to be said in any language."""
        found = []
        if self.revenue_usd is None:
            found.append(Text("What it earns in USD is not known: a price or an exchange rate is missing."))
        if self.worst_cost_usd is None:
            found.append(Text("Nothing bounds what a period may cost us: %(because)s.", because=self.worst_because))
        elif self.revenue_usd is not None and self.worst_cost_usd > self.revenue_usd:
            found.append(
                Text(
                    "A period earns %(earned)s USD and may cost %(cost)s USD: %(because)s.",
                    earned=cents(self.revenue_usd),
                    cost=cents(self.worst_cost_usd),
                    because=self.worst_because,
                )
            )
        most = Amount(self.credit_cost_usd.quantize(Decimal("0.000001")))
        if self.overage_usd is not None and self.credit_cost_usd > self.overage_usd:
            found.append(
                Text(
                    "A credit beyond those included earns %(earned)s USD and may cost %(cost)s USD.",
                    earned=Amount(self.overage_usd),
                    cost=most,
                )
            )
        if self.credit_sold_usd is not None and self.credit_cost_usd > self.credit_sold_usd:
            found.append(
                Text(
                    "A bought credit earned %(earned)s USD and may cost %(cost)s USD when it is spent here.",
                    earned=Amount(self.credit_sold_usd),
                    cost=most,
                )
            )
        return found

    @property
    def can_lose_money(self) -> bool:
        return bool(self.risks)

    def figures(self) -> dict[str, str | None]:
        """What decides about loss, as events keep it; equal when nothing about it changed."""
        known = {
            "revenue_usd": self.revenue_usd,
            "worst_cost_usd": self.worst_cost_usd,
            "credit_cost_usd": self.credit_cost_usd,
            "credit_sold_usd": self.credit_sold_usd,
            "overage_usd": self.overage_usd,
        }
        return {name: None if value is None else f"{value:.9f}" for name, value in known.items()}


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is assumed of a plan's users in the place of what is stored with its routing."""

    messages_a_month: int | None
    cost_per_message_usd: Mapping[str, Decimal]


@dataclass(slots=True)
class _Catalogue:
    """What the economics of any plan are reckoned from, read in a few queries."""

    rates: dict[str, FxRate] = field(default_factory=dict)
    prices: dict[int, dict[str, PlanPrice]] = field(default_factory=dict)
    margins: dict[str, Decimal] = field(default_factory=dict)
    factors: dict[str, Decimal] = field(default_factory=dict)
    packs: list[CreditPack] = field(default_factory=list)

    def usd(self, amount: Decimal, currency: str) -> Decimal | None:
        if currency == "USD":
            return amount
        rate = self.rates.get(currency)
        return None if rate is None else amount / rate.rate


def plan_economics(plan: Plan, *, at: datetime, assumptions: Assumptions | None = None) -> PlanEconomics | None:
    """The figures of one plan with the prices and rates in force at `at`; None for a plan that no call can use."""
    return next(iter(plans_economics([plan], at=at, assumptions=assumptions)), None)


def plans_economics(plans: Iterable[Plan], *, at: datetime, assumptions: Assumptions | None = None) -> list[PlanEconomics]:
    """The figures of several plans in a fixed number of queries; plans without routing are left out."""
    wanted = list(plans)
    routings = {routing.plan_id: routing for routing in PlanRouting.objects.filter(plan__in=wanted)}
    catalogue = _catalogue(wanted, at)
    return [_reckon(plan, routings[plan.pk], catalogue, assumptions) for plan in wanted if plan.pk in routings]


def public_economics(*, at: datetime) -> list[PlanEconomics]:
    """The figures of everything that is on sale."""
    return plans_economics(Plan.objects.filter(visibility=Plan.Visibility.PUBLIC), at=at)


def assumptions_set(*, routing: PlanRouting, assumptions: Assumptions, actor: Actor, reason: str) -> PlanRouting:
    """Store what is assumed of a plan's users; the same again writes nothing. Raises ApiError 400 `invalid_request`."""
    costs = assumptions.cost_per_message_usd
    if any(not cost.is_finite() or cost < 0 for cost in costs.values()):
        raise ApiError(400, "invalid_request", "A cost is not negative.", param="cost_per_message_usd")
    wanted = {
        "expected_messages": assumptions.messages_a_month,
        "expected_cost_usd": {name: f"{plain(cost):f}" for name, cost in sorted(costs.items())},
    }
    with transaction.atomic():
        routing = PlanRouting.objects.select_for_update(no_key=True).get(pk=routing.pk)
        before: dict[str, Any] = {name: getattr(routing, name) for name in wanted}
        if before != wanted:
            for name, value in wanted.items():
                setattr(routing, name, value)
            routing.save(update_fields=list(wanted))
            event_record(
                kind="plan_routing.assumptions_changed",
                object_type="plan_routing",
                object_id=routing.pk,
                actor=actor,
                before=before,
                after=wanted,
                reason=reason,
            )
    return routing


def risk_accepted(*, economics: PlanEconomics, actor: Actor, reason: str) -> None:
    """Record that an operator saw how a plan on sale can lose money and wants it so; inside the transaction of that change."""
    event_record(
        kind="plan.risk_accepted",
        object_type="plan",
        object_id=economics.plan.pk,
        actor=actor,
        after={**economics.figures(), "risks": [str(risk) for risk in economics.risk_texts]},
        reason=reason,
    )


def _catalogue(plans: list[Plan], at: datetime) -> _Catalogue:
    found = _Catalogue()
    for rate in FxRate.objects.filter(base="USD", effective_from__lte=at).order_by("effective_from"):
        found.rates[rate.quote] = rate
    for price in PlanPrice.objects.filter(plan__in=plans, effective_from__lte=at).order_by("effective_from"):
        found.prices.setdefault(price.plan_id, {})[price.currency] = price
    own_margin = AiModel.objects.filter(margin_multiplier__isnull=False)
    margins = own_margin.values_list("name", "margin_multiplier")
    found.margins = {name: margin for name, margin in margins if margin is not None}
    dear = ModelProfile.objects.filter(Q(enabled=True) & Q(cost_factor__gt=1)).order_by("cost_factor")
    found.factors = dict(dear.values_list("model__name", "cost_factor"))
    found.packs = list(CreditPack.objects.filter(is_public=True))
    return found


def _reckon(plan: Plan, routing: PlanRouting, catalogue: _Catalogue, assumptions: Assumptions | None) -> PlanEconomics:
    price, revenue = _revenue(plan, catalogue)
    credit_cost = _credit_cost(plan, routing, catalogue)
    worst, because = _worst_cost(plan, routing, credit_cost)
    takes_credits = plan.billing_mode != Plan.BillingMode.QUOTA and not routing.free_only
    assumptions = assumptions or _stored_assumptions(routing)
    months = _months(plan)
    messages = None if assumptions.messages_a_month is None else assumptions.messages_a_month * months
    shares = _shares(routing, assumptions.cost_per_message_usd)
    return PlanEconomics(
        plan=plan,
        routing=routing,
        price=price,
        rate=None if price is None else catalogue.rates.get(price.currency),
        revenue_usd=revenue,
        worst_cost_usd=worst,
        worst_because=because,
        credit_cost_usd=credit_cost,
        credit_sold_usd=_credit_sold(catalogue) if takes_credits else None,
        overage_usd=_overage(plan, price, catalogue),
        months=months,
        messages=messages,
        shares=shares,
        expected_cost_usd=_expected_cost(routing, messages, shares, worst),
    )


def _revenue(plan: Plan, catalogue: _Catalogue) -> tuple[PlanPrice | None, Decimal | None]:
    """The price that earns least, and what it earns. A price whose rate is missing hides what the plan earns."""
    earned = [(price, catalogue.usd(price.amount, price.currency)) for price in catalogue.prices.get(plan.pk, {}).values()]
    for price, usd in earned:
        if usd is None:
            return price, None
    known = [(price, usd) for price, usd in earned if usd is not None]
    return min(known, key=lambda pair: (pair[1], pair[0].currency)) if known else (None, None)


def _credit_cost(plan: Plan, routing: PlanRouting, catalogue: _Catalogue) -> Decimal:
    allowed = set(routing.models_allowed)

    def reached(by_model: Mapping[str, Decimal]) -> list[Decimal]:
        return [value for name, value in by_model.items() if EVERY_MODEL in allowed or name in allowed]

    if routing.free_only:
        return ZERO
    margin = min([routing.margin_multiplier, *reached(catalogue.margins)])
    factor = max([Decimal(1), *reached(catalogue.factors)])
    excess = WHOLE_CREDIT_EXCESS if plan.rounding == Plan.Rounding.WHOLE else Decimal(1)
    return routing.usd_per_credit / margin * factor * excess


def _credit_sold(catalogue: _Catalogue) -> Decimal | None:
    sold = []
    for pack in catalogue.packs:
        usd = catalogue.usd(pack.amount, pack.currency)
        if usd is not None:
            sold.append(usd / (pack.credits + pack.bonus_credits))
    return min(sold, default=None)


def _overage(plan: Plan, price: PlanPrice | None, catalogue: _Catalogue) -> Decimal | None:
    if plan.billing_mode != Plan.BillingMode.METERED or price is None:
        return None
    return ZERO if price.overage_amount is None else catalogue.usd(price.overage_amount, price.currency)


def _worst_cost(plan: Plan, routing: PlanRouting, credit_cost: Decimal) -> tuple[Decimal | None, Text]:
    """The most that a period's included use can cost us, and why; None when nothing bounds it."""
    allowance = routing.cost_allowance_usd
    if routing.free_only:
        return ZERO, Text("only models that cost us nothing")
    if plan.billing_mode == Plan.BillingMode.QUOTA:
        if allowance is None:
            return None, Text("the plan counts requests and has no cost allowance")
        return allowance, Text("its cost allowance")
    covered = usd_quantise(plan.period_credits * credit_cost)
    if allowance is None or covered <= allowance:
        return covered, Text("what its %(credits)s credits cover", credits=Amount(plan.period_credits))
    return allowance, Text("its cost allowance, which ends before its credits do")


def _months(plan: Plan) -> Decimal:
    match plan.interval:
        case Plan.Interval.MONTH:
            return Decimal(plan.interval_count)
        case Plan.Interval.DAY:
            return Decimal(plan.interval_count) / DAYS_A_MONTH
        case _:
            return Decimal(1)


def _stored_assumptions(routing: PlanRouting) -> Assumptions:
    costs = {name: Decimal(str(cost)) for name, cost in routing.expected_cost_usd.items()}
    return Assumptions(routing.expected_messages, costs)


def _shares(routing: PlanRouting, costs: Mapping[str, Decimal]) -> tuple[ProviderShare, ...]:
    """Who is expected to serve: by the split's weights; by score the dearest provider assumed, as nobody knows better."""
    if routing.strategy == PlanRouting.Strategy.SPLIT:
        weights = {name: Decimal(str(weight)) for name, weight in routing.split.items()}
        total = sum(weights.values(), ZERO)
        if total:
            return tuple(ProviderShare(name, weight / total, costs.get(name)) for name, weight in weights.items())
        return ()
    if not costs:
        return ()
    dearest = max(costs, key=lambda name: (costs[name], name))
    return (ProviderShare(dearest, Decimal(1), costs[dearest]),)


def _expected_cost(
    routing: PlanRouting, messages: Decimal | None, shares: tuple[ProviderShare, ...], worst: Decimal | None
) -> Decimal | None:
    if routing.free_only:
        return ZERO
    if messages is None or not shares:
        return None
    total = ZERO
    for share in shares:
        if share.cost_per_message_usd is None:
            return None
        total += messages * share.share * share.cost_per_message_usd
    # Beyond the worst case only models without cost answer.
    return total if worst is None else min(total, worst)
