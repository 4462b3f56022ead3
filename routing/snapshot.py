"""The catalogue as the gateway sees it: all that routing decides on, read once, replaced whole when a change is announced."""

import logging
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.db import connection, transaction

from billing.plans.models import Plan
from billing.subscriptions.callers import Limits
from iafactory.common.money import usd_to_nano

from .models import AiModel, Budget, GatewayLimits, ModelPrice, ModelProfile, PlanRouting, Provider, ProviderCredential
from .providers.presets import REASONING_MODEL
from .providers.registry import speaks

logger = logging.getLogger(__name__)

AUTO = "auto"
_API_VERSION = re.compile(r"/(v\d[0-9a-z]*)/?$")


@dataclass(frozen=True, slots=True)
class TierPrice:
    """List prices in USD per million tokens; None is unknown, never zero."""

    input: Decimal | None
    cached_input: Decimal | None
    cache_write: Decimal | None
    cache_write_1h: Decimal | None
    output: Decimal | None
    reasoning_output: Decimal | None


@dataclass(frozen=True, slots=True)
class Price:
    """A price row: base prices, and those that replace them above a number of input tokens, highest threshold first."""

    id: str
    effective_from: datetime
    base: TierPrice
    tiers: tuple[tuple[int, TierPrice], ...]
    # Prices beside tokens: per_image, per_1k_chars, per_audio_hour, per_clip… in USD.
    units: Mapping[str, Decimal] = field(default_factory=dict)

    def for_input(self, input_tokens: int) -> TierPrice:
        """The prices of a call with that many input tokens, for the whole of it."""
        for threshold, tier in self.tiers:
            if input_tokens > threshold:
                return tier
        return self.base


@dataclass(frozen=True, slots=True)
class Credential:
    """A key of ours at a provider; `id` is empty where none is needed."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Route:
    """A model profile that can be called: where, as what, at which price."""

    slug: str
    provider: str
    protocol: str
    base_url: str
    # In order of use; at least one.
    credentials: tuple[Credential, ...]
    simulated: bool
    quirks: frozenset[str]
    connect_timeout_seconds: int
    first_byte_timeout_seconds: int
    read_timeout_seconds: int
    provider_priority: int
    draining: bool
    # What the provider takes of us, together and of this model; None is unknown.
    provider_requests_per_minute: int | None
    provider_concurrent_calls: int | None
    requests_per_minute: int | None
    requests_per_day: int | None
    concurrent_calls: int | None
    # Empty: everybody may call it.
    reserved_for: frozenset[UUID]
    model: str
    upstream_model: str
    reasoning: bool
    cost_factor: Decimal
    # Instead of the plan's, if the model has one.
    margin_multiplier: Decimal | None
    context_window: int | None
    max_output_tokens: int | None
    default_max_output: int
    weight: int
    typical_latency_ms: int
    prices: tuple[Price, ...]

    def price_at(self, at: datetime) -> Price | None:
        """The price row in force at `at`; rows are sorted by date."""
        position = bisect_right(self.prices, at, key=lambda price: price.effective_from)
        return self.prices[position - 1] if position else None


@dataclass(frozen=True, slots=True)
class Model:
    """A public model and the routes that serve it."""

    name: str
    mode: str
    owner: str
    created: int
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """How one plan routes; fields as in `PlanRouting`."""

    strategy: str
    split: tuple[tuple[str, int], ...]
    score_weights: Mapping[str, Decimal]
    fallback: tuple[str, ...]
    default_models: Mapping[str, str]
    models_allowed: frozenset[str]
    free_only: bool
    context_cap: int | None
    cost_allowance_nano: int | None
    margin_multiplier: Decimal
    usd_per_credit: Decimal
    provider_pin_allowed: bool
    most_attempts: int
    deadline_seconds: int | None

    def narrowed(self, models: frozenset[str]) -> "Policy":
        """The same policy for an API key that may only call `models`; empty means all."""
        if not models:
            return self
        return replace(self, models_allowed=models if "*" in self.models_allowed else self.models_allowed & models)

    def allows(self, model: str) -> bool:
        return "*" in self.models_allowed or model in self.models_allowed


@dataclass(frozen=True, slots=True)
class PlanOffer:
    """A public plan, for saying which one would lift a limit."""

    code: str
    name: str
    family: str
    billing_mode: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """A ceiling on provider cost in nano-USD per UTC day and UTC month; None is no limit."""

    daily_nano: int | None = None
    monthly_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it. `names` maps every public name and alias to its model."""

    models: Mapping[str, Model]
    names: Mapping[str, str]
    policies: Mapping[int, Policy]
    overflow: Policy | None
    budget: BudgetLimits
    provider_budgets: Mapping[str, BudgetLimits]
    gateway_requests_per_minute: int | None
    gateway_concurrent_calls: int | None
    queue_seconds: int
    offers: tuple[PlanOffer, ...]

    def model(self, name: str) -> Model | None:
        """The model of a public name or alias."""
        return self.models.get(self.names.get(name, ""))


_SIMULATOR_CREDENTIALS = (Credential("", "no-credential-needed-here"),)
# What pays beyond a plan's quota: bought credits, at the prices of this plan.
OVERFLOW_PLAN = "payg"


def _tier(values: Mapping[str, object]) -> TierPrice:
    def price(name: str) -> Decimal | None:
        value = values.get(name)
        return None if value is None else Decimal(str(value))

    return TierPrice(
        input=price("input_per_mtok"),
        cached_input=price("cached_input_per_mtok"),
        cache_write=price("cache_write_per_mtok"),
        cache_write_1h=price("cache_write_1h_per_mtok"),
        output=price("output_per_mtok"),
        reasoning_output=price("reasoning_output_per_mtok"),
    )


def _price(row: ModelPrice) -> Price:
    base = {name: getattr(row, name) for name in (f.name for f in ModelPrice._meta.fields) if name.endswith("_per_mtok")}
    tiers = sorted(((int(t["threshold"]), _tier(base | t)) for t in row.tiers), key=lambda tier: -tier[0])
    units = {str(name): Decimal(str(value)) for name, value in row.units.items() if value is not None}
    return Price(id=str(row.pk), effective_from=row.effective_from, base=_tier(base), tiers=tuple(tiers), units=units)


def _nano(usd: Decimal | None) -> int | None:
    return None if usd is None else usd_to_nano(usd)


def _address(
    provider: Provider, credentials: Mapping[int, list[Credential]]
) -> tuple[str, tuple[Credential, ...], bool] | None:
    """Base URL, credentials and whether it is the simulator; None when the provider cannot be called."""
    if own := credentials.get(provider.pk):
        return provider.base_url, tuple(own), False
    if settings.SIMULATOR_URL:
        # Adapters add a protocol's own path to a base URL that ends in its version.
        found = _API_VERSION.search(provider.base_url)
        version = found[1] if found is not None else "v1"
        return f"{settings.SIMULATOR_URL}/{provider.slug}/{version}", _SIMULATOR_CREDENTIALS, True
    return None


def _credentials() -> dict[int, list[Credential]]:
    """The usable credentials of each provider. One that no key decrypts is left out and must not stop the others."""
    credentials: dict[int, list[Credential]] = defaultdict(list)
    for row in ProviderCredential.objects.filter(enabled=True).order_by("priority", "created_at").defer("secret"):
        try:
            credentials[row.provider_id].append(Credential(str(row.pk), row.secret))
        except InvalidToken:
            logger.error("credential %s cannot be decrypted with the present FIELD_ENCRYPTION_KEYS", row.pk)
    return credentials


def snapshot_load() -> Snapshot:
    """Read the catalogue with the ORM, a few queries, as it was at one instant.

    Half of somebody's change would send a call to a model without its new price, or to a provider without its credential.
    """
    own_transaction = not connection.in_atomic_block
    with transaction.atomic():
        if own_transaction:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return _read()


def _read() -> Snapshot:
    credentials = _credentials()
    reserved: dict[int, set[UUID]] = defaultdict(set)
    for profile_id, account_id in ModelProfile.reserved_for.through.objects.values_list("modelprofile_id", "account_id"):
        reserved[profile_id].add(account_id)
    prices: dict[int, list[Price]] = defaultdict(list)
    for row in ModelPrice.objects.order_by("effective_from"):
        prices[row.profile_id].append(_price(row))

    routes: dict[int, list[Route]] = defaultdict(list)
    profiles = ModelProfile.objects.filter(enabled=True, provider__enabled=True).select_related("provider", "model")
    for profile in profiles.order_by("provider__priority", "slug"):
        provider = profile.provider
        address = _address(provider, credentials)
        if address is None or not speaks(provider.protocol, profile.model.mode):
            continue
        base_url, own_credentials, simulated = address
        routes[profile.model_id].append(
            Route(
                slug=profile.slug,
                provider=provider.slug,
                protocol=provider.protocol,
                base_url=base_url,
                credentials=own_credentials,
                simulated=simulated,
                quirks=frozenset(provider.quirks) | ({REASONING_MODEL} if profile.model.reasoning else set()),
                connect_timeout_seconds=provider.connect_timeout_seconds,
                first_byte_timeout_seconds=provider.first_byte_timeout_seconds,
                read_timeout_seconds=provider.read_timeout_seconds,
                provider_priority=provider.priority,
                draining=provider.draining or profile.draining,
                provider_requests_per_minute=provider.requests_per_minute,
                provider_concurrent_calls=provider.concurrent_calls,
                requests_per_minute=profile.requests_per_minute,
                requests_per_day=profile.requests_per_day,
                concurrent_calls=profile.concurrent_calls,
                reserved_for=frozenset(reserved[profile.pk]),
                model=profile.model.name,
                upstream_model=profile.upstream_model,
                reasoning=profile.model.reasoning,
                cost_factor=profile.cost_factor,
                margin_multiplier=profile.model.margin_multiplier,
                context_window=profile.context_window,
                max_output_tokens=profile.max_output_tokens,
                default_max_output=profile.default_max_output,
                weight=profile.weight,
                typical_latency_ms=profile.typical_latency_ms,
                prices=tuple(prices[profile.pk]),
            )
        )

    models: dict[str, Model] = {}
    names: dict[str, str] = {}
    for model in AiModel.objects.filter(public=True).order_by("name"):
        models[model.name] = Model(
            name=model.name,
            mode=model.mode,
            owner=model.owner,
            created=int(model.created_at.timestamp()),
            routes=tuple(routes[model.pk]),
        )
        for alias in model.aliases:
            names.setdefault(alias, model.name)
    # A real name wins over somebody else's alias.
    names |= {name: name for name in models}

    policies: dict[int, Policy] = {}
    overflow = None
    for routing in PlanRouting.objects.select_related("plan"):
        policy = Policy(
            strategy=routing.strategy,
            split=tuple(sorted((slug, int(weight)) for slug, weight in routing.split.items())),
            score_weights={name: Decimal(str(weight)) for name, weight in routing.score_weights.items()},
            fallback=tuple(routing.fallback),
            default_models=dict(routing.default_models),
            models_allowed=frozenset(routing.models_allowed),
            free_only=routing.free_only,
            context_cap=routing.context_cap,
            cost_allowance_nano=_nano(routing.cost_allowance_usd),
            margin_multiplier=routing.margin_multiplier,
            usd_per_credit=routing.usd_per_credit,
            provider_pin_allowed=routing.provider_pin_allowed,
            most_attempts=routing.most_attempts,
            deadline_seconds=routing.deadline_seconds,
        )
        policies[routing.plan_id] = policy
        if routing.plan.code == OVERFLOW_PLAN:
            overflow = policy

    budget = BudgetLimits()
    provider_budgets: dict[str, BudgetLimits] = {}
    for ceiling in Budget.objects.select_related("provider"):
        limits = BudgetLimits(_nano(ceiling.daily_limit_usd), _nano(ceiling.monthly_limit_usd))
        if ceiling.provider is None:
            budget = limits
        else:
            provider_budgets[ceiling.provider.slug] = limits
    own = GatewayLimits.objects.first()
    offers = tuple(
        PlanOffer(
            plan.code,
            plan.name,
            plan.family,
            plan.billing_mode,
            Limits(**{name: getattr(plan, name) for name in Limits.__slots__}),
        )
        for plan in Plan.objects.filter(visibility=Plan.Visibility.PUBLIC)
    )
    return Snapshot(
        models=models,
        names=names,
        policies=policies,
        overflow=overflow,
        budget=budget,
        provider_budgets=provider_budgets,
        gateway_requests_per_minute=own.requests_per_minute if own else None,
        gateway_concurrent_calls=own.concurrent_calls if own else None,
        queue_seconds=own.queue_seconds if own else GatewayLimits._meta.get_field("queue_seconds").default,
        offers=offers,
    )
