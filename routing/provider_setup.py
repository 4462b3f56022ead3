"""Bringing a provider into use with its key, its models and their prices: all of it or nothing, each with its event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from billing.events.services import Actor, event_record
from billing.plans.catalog import plans_read
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import plain
from iafactory.common.texts import Text

from .catalog import ROUTING_FOLDER, routing_read
from .credentials import credential_add
from .models import AiModel, ModelPrice, ModelProfile, Provider
from .price_import.models import price_text
from .price_import.reading import COLUMNS
from .providers.registry import speaks


@dataclass(frozen=True, slots=True)
class Price:
    """A list price in USD: per million tokens by column, other units by name, and what replaces it above thresholds."""

    columns: Mapping[str, Decimal] = field(default_factory=dict)
    units: Mapping[str, Decimal] = field(default_factory=dict)
    tiers: Sequence[Mapping[str, Any]] = ()
    source: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.columns and not self.units


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model that a provider lists, and what is known of it here.

    `known` tells where from: the shipped catalogue, a model here of that name, or nowhere. `present` says that a profile of the
    provider serves it already.
    """

    upstream: str
    name: str
    mode: str = AiModel.Mode.CHAT
    known: bool = False
    present: bool = False
    owner: str = ""
    reasoning: bool = False
    aliases: tuple[str, ...] = ()
    context_window: int | None = None
    max_output_tokens: int | None = None
    price: Price = field(default_factory=Price)


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model to bring into use, under its public name, at a list price; without a price its calls are refused."""

    listed: ListedModel
    name: str
    mode: str
    price: Price


@dataclass(frozen=True, slots=True)
class _Shipped:
    profiles: dict[tuple[str, str], Mapping[str, Any]]
    models: dict[str, Mapping[str, Any]]
    prices: dict[str, Mapping[str, Any]]


def listed_models(provider: str, names: Sequence[str]) -> list[ListedModel]:
    """What is known of the models that `provider` lists under `names`: known ones first, by name; a few queries."""
    shipped = _shipped()
    present = set(ModelProfile.objects.filter(provider__slug=provider).values_list("upstream_model", flat=True))
    here: dict[str, AiModel] = {}
    for model in AiModel.objects.all():
        here |= dict.fromkeys((model.name, *model.aliases), model)
    found = [_listed(provider, name, shipped, here, present) for name in names]
    return sorted(found, key=lambda model: (not model.known, model.upstream))


def likely_models(provider: str) -> list[str]:
    """The provider's names of chat models that a first call can go to, the cheapest output first."""
    shipped = _shipped()
    chats = []
    for (company, upstream), profile in shipped.profiles.items():
        name = profile["model"].key
        if company == provider and shipped.models.get(name, {}).get("mode", AiModel.Mode.CHAT) == AiModel.Mode.CHAT:
            price = shipped.prices.get(profile["slug"], {}).get("output_per_mtok")
            chats.append((price is None, price or Decimal(0), upstream))
    return [upstream for _unknown, _price, upstream in sorted(chats)]


def provider_connect(
    *,
    provider: Provider | None,
    slug: str,
    name: str,
    protocol: str,
    base_url: str,
    quirks: Sequence[str],
    label: str,
    secret: str,
    models: Sequence[NewModel],
    actor: Actor,
    reason: str,
) -> Provider:
    """Write a provider (`provider` None: a new one), a key of it that was tried, and models with their profiles and prices.

    Raises ApiError 409 `already_exists`, 409 `credential_label_taken`, 400 `invalid_request`; then nothing was written.
    """
    if not models:
        raise ApiError(400, "invalid_request", "Choose at least one model.", param="models")
    with transaction.atomic():
        if provider is None:
            provider = _provider_create(slug, name, protocol, base_url, quirks, actor, reason)
        credential_add(provider=provider, label=label, secret=secret, actor=actor, reason=reason)
        for model in models:
            _model_add(provider, model, actor, reason)
    return provider


def _provider_create(
    slug: str, name: str, protocol: str, base_url: str, quirks: Sequence[str], actor: Actor, reason: str
) -> Provider:
    if Provider.objects.filter(slug=slug).exists():
        raise ApiError(409, "already_exists", "There is a provider of this code.", param="slug")
    provider = Provider(slug=slug, name=name, protocol=protocol, base_url=base_url, quirks=sorted(quirks))
    _save(provider)
    after = {"slug": slug, "name": name, "protocol": protocol, "base_url": base_url, "quirks": sorted(quirks)}
    _event("provider", provider.pk, actor, after, reason)
    return provider


def _model_add(provider: Provider, new: NewModel, actor: Actor, reason: str) -> None:
    if not speaks(provider.protocol, new.mode):
        told = Text(
            "%(model)s: nothing here speaks %(mode)s over the protocol %(protocol)s.",
            model=new.name,
            mode=new.mode,
            protocol=provider.protocol,
        )
        raise ApiError(400, "invalid_request", told, param="models")
    listed = new.listed
    model = AiModel.objects.filter(name=new.name).first()
    if model is None:
        if AiModel.objects.filter(aliases__contains=[new.name]).exists():
            raise ApiError(409, "already_exists", Text("%(model)s is another model's alias.", model=new.name), param="models")
        taken = {*AiModel.objects.values_list("name", flat=True)}
        for aliases in AiModel.objects.values_list("aliases", flat=True):
            taken |= set(aliases)
        model = AiModel(
            name=new.name,
            mode=new.mode,
            owner=listed.owner,
            reasoning=listed.reasoning,
            aliases=[alias for alias in listed.aliases if alias not in taken],
        )
        _save(model)
        after = {"name": model.name, "mode": str(model.mode), "owner": model.owner, "reasoning": model.reasoning}
        _event("ai_model", model.pk, actor, after, reason)
    elif model.mode != new.mode:
        told = Text("%(model)s is a model for %(mode)s here.", model=new.name, mode=model.get_mode_display())
        raise ApiError(409, "already_exists", told, param="models")
    slug = f"{provider.slug}/{new.name}"
    if ModelProfile.objects.filter(slug=slug).exists():
        raise ApiError(409, "already_exists", Text("%(name)s is in use already.", name=slug), param="models")
    profile = ModelProfile(
        slug=slug,
        provider=provider,
        model=model,
        upstream_model=listed.upstream,
        context_window=listed.context_window,
        max_output_tokens=listed.max_output_tokens,
    )
    _save(profile)
    _event("model_profile", profile.pk, actor, {"slug": slug, "upstream_model": listed.upstream, "model": model.name}, reason)
    if not new.price.is_empty:
        model_price_create(profile=profile, price=new.price, actor=actor, reason=reason)


def model_price_create(
    *, profile: ModelProfile, price: Price, actor: Actor, reason: str, effective_from: Any = None
) -> ModelPrice:
    """Add a list price, in force at once or from an instant on. Raises ApiError 409 `already_exists`, 400 `invalid_request`."""
    at = effective_from or clock.now()
    with transaction.atomic():
        if ModelPrice.objects.filter(profile=profile, effective_from=at).exists():
            raise ApiError(409, "already_exists", "The profile has a price from this instant on.", param="effective_from")
        row = ModelPrice(
            profile=profile,
            effective_from=at,
            units={name: price_text(value) for name, value in sorted(price.units.items())},
            tiers=[dict(tier) for tier in price.tiers],
            source=price.source[:200],
            **{name: value for name, value in price.columns.items() if name in COLUMNS},
        )
        if any(value < 0 for value in (*price.columns.values(), *price.units.values())):
            raise ApiError(400, "invalid_request", "A price is not negative.", param="price")
        _save(row)
        told = {name: price_text(value) for name, value in price.columns.items()} | dict(row.units)
        after = {"profile": profile.slug, "effective_from": at.isoformat(), **told, "tiers": row.tiers}
        _event("model_price", row.pk, actor, after, reason)
    return row


def _listed(provider: str, upstream: str, shipped: _Shipped, here: Mapping[str, AiModel], present: set[str]) -> ListedModel:
    profile = shipped.profiles.get((provider, upstream))
    if profile is not None:
        name = profile["model"].key
        model = shipped.models.get(name, {})
        own = here.get(name)
        return ListedModel(
            upstream=upstream,
            name=name,
            mode=str(own.mode if own else model.get("mode", AiModel.Mode.CHAT)),
            known=True,
            present=upstream in present,
            owner=model.get("owner", ""),
            reasoning=bool(model.get("reasoning", False)),
            aliases=tuple(model.get("aliases", ())),
            context_window=profile.get("context_window"),
            max_output_tokens=profile.get("max_output_tokens"),
            price=_shipped_price(shipped.prices.get(profile["slug"])),
        )
    own = here.get(upstream) or here.get(upstream.rpartition("/")[2])
    if own is not None:
        return ListedModel(upstream, own.name, str(own.mode), known=True, present=upstream in present, owner=own.owner)
    return ListedModel(upstream, upstream, present=upstream in present)


def _shipped() -> _Shipped:
    data = routing_read(ROUTING_FOLDER, plans_read(), clock.now())
    now = clock.now()
    prices: dict[str, Mapping[str, Any]] = {}
    for row in sorted(data.prices, key=lambda shipped: shipped.fields["effective_from"]):
        if row.fields["effective_from"] <= now:
            prices[row.fields["profile"].key] = row.fields
    # Free tiers are brought into use by hand, with the caps that they have.
    paid = (entry.fields for entry in data.profiles if entry.fields["cost_factor"] != 0)
    return _Shipped(
        profiles={(fields["provider"].key, fields["upstream_model"]): fields for fields in paid},
        models={entry.fields["name"]: entry.fields for entry in data.models},
        prices=prices,
    )


def _shipped_price(row: Mapping[str, Any] | None) -> Price:
    if row is None:
        return Price()
    return Price(
        columns={name: plain(row[name]) for name in COLUMNS if row.get(name) is not None},
        units={name: Decimal(value) for name, value in row["units"].items()},
        tiers=tuple(row["tiers"]),
        source=row["source"],
    )


def _save(row: Any) -> None:
    try:
        row.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        name, messages = next(iter(error.message_dict.items()))
        raise ApiError(
            400,
            "invalid_request",
            Text("%(row)s: %(field)s: %(why)s", row=str(row), field=name, why=" ".join(messages)),
            param=name,
        ) from None
    row.save(force_insert=True)


def _event(object_type: str, pk: Any, actor: Actor, after: dict[str, Any], reason: str) -> None:
    event_record(kind=f"{object_type}.created", object_type=object_type, object_id=pk, actor=actor, after=after, reason=reason)
