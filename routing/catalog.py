"""The shipped providers, models, list prices and plan routing, and the service that loads the whole catalogue."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings

from billing.payments.defaults import selling_write
from billing.plans.catalog import (
    PLANS_FILE,
    CatalogError,
    CatalogReport,
    CatalogWriter,
    PlansData,
    Reference,
    Shipped,
    catalog_writing,
    decimal_read,
    instant_read,
    only,
    plans_read,
    plans_write,
    tables,
    take,
    toml_read,
)
from billing.plans.models import Plan
from iafactory.common import clock
from iafactory.common.money import usd_quantise
from routing.models import AiModel, Budget, ModelPrice, ModelProfile, PlanRouting, Provider
from routing.providers.presets import PRESETS

ROUTING_FOLDER = Path(__file__).parent / "data"
FREE_TIER_SUFFIX = ":free"

_PER_TOKEN_COLUMNS = tuple(f.name for f in ModelPrice._meta.concrete_fields if f.name.endswith("_per_mtok"))
_PRICE_OVER = re.compile(r"price / (\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class RoutingData:
    """The files of routing/data, read and checked as far as possible without the database."""

    providers: list[Shipped]
    models: list[Shipped]
    profiles: list[Shipped]
    prices: list[Shipped]
    plan_routing: list[Shipped]
    budgets: list[Shipped]


def catalog_load(
    *,
    dry_run: bool = False,
    plans_file: Path = PLANS_FILE,
    routing_folder: Path = ROUTING_FOLDER,
    further: Sequence[Callable[[CatalogWriter], None]] = (),
) -> CatalogReport:
    """Load the shipped catalogue, in one transaction and one load at a time.

    Creates what is new, updates what nobody edited, keeps operators' edits and deletions, adds prices and never changes
    one. `further` writes what apps above ship. With `dry_run` everything is rolled back. Raises CatalogError, with nothing
    written, for a file it cannot use.
    """
    plans = plans_read(plans_file)
    data = routing_read(routing_folder, plans, clock.now())
    with catalog_writing(dry_run=dry_run) as writer:
        plans_write(writer, plans)
        selling_write(writer)
        routing_write(writer, data)
        for write in further:
            write(writer)
    return writer.report


def routing_write(writer: CatalogWriter, data: RoutingData) -> None:
    """Write providers, models, profiles, list prices, plan routing and the default budget. Raises CatalogError."""
    writer.write("provider", Provider, data.providers, identity=["slug"])
    writer.write("model", AiModel, data.models, identity=["name"])
    writer.write("profile", ModelProfile, data.profiles, identity=["slug"])
    writer.write("model_price", ModelPrice, data.prices, identity=["profile", "effective_from"], immutable=True)
    writer.write("plan_routing", PlanRouting, data.plan_routing, identity=["plan"])
    writer.write("budget", Budget, data.budgets, identity=["provider"])


def routing_read(folder: Path, plans: PlansData, at: datetime) -> RoutingData:
    """Read the files of `folder`; an allowance that depends on a plan's price uses the one at `at`.

    Raises CatalogError.
    """
    providers, latencies = _providers_read(folder / "providers.toml")
    models, profiles = _models_read(folder / "models.toml", latencies)
    prices = _prices_read(folder / "model_prices.json", profiles)
    plan_routing = _plan_routing_read(folder / "plan_routing.toml", plans, models, profiles, set(latencies), at)
    daily_limit = decimal_read(settings.DEFAULT_DAILY_BUDGET_USD, "setting DEFAULT_DAILY_BUDGET_USD")
    budget = Shipped("setting DEFAULT_DAILY_BUDGET_USD", {"provider": None, "daily_limit_usd": daily_limit})
    return RoutingData(providers, models, profiles, prices, plan_routing, [budget])


def _providers_read(path: Path) -> tuple[list[Shipped], dict[str, int | None]]:
    """Providers, and the typical latency of each one's profiles."""
    data = toml_read(path)
    only(data, ("provider",), path.name)
    providers, latencies = [], {}
    for entry in tables(data, "provider", path.name):
        slug = take(entry, "slug", path.name)
        where = f"{path.name}: provider {slug!r}"
        preset = PRESETS.get(slug)
        if preset is None:
            raise CatalogError(f"{where}: has no preset")
        latencies[slug] = entry.pop("typical_latency_ms", None)
        known = {
            "slug": slug,
            "name": preset.display_name,
            "protocol": preset.protocol,
            "base_url": preset.base_url,
            "quirks": sorted(preset.quirks),
        }
        providers.append(Shipped(where, {**known, **entry}))
    return providers, latencies


def _models_read(path: Path, latencies: Mapping[str, int | None]) -> tuple[list[Shipped], list[Shipped]]:
    data = toml_read(path)
    only(data, ("model",), path.name)
    models, profiles = [], []
    names: dict[str, str] = {}
    for entry in tables(data, "model", path.name):
        name = take(entry, "name", path.name)
        where = f"{path.name}: model {name!r}"
        for spelling in (name, *entry.get("aliases", ())):
            if spelling in names:
                raise CatalogError(f"{where}: {spelling!r} already means model {names[spelling]!r}")
            names[spelling] = name
        for profile in tables(entry, "profiles", where):
            provider, upstream = take(profile, "provider", where), take(profile, "upstream", where)
            if provider not in latencies:
                raise CatalogError(f"{where}: unknown provider {provider!r}")
            free_tier = profile.pop("free_tier", False)
            slug = f"{provider}/{name}" + (FREE_TIER_SUFFIX if free_tier else "")
            known: dict[str, Any] = {
                "slug": slug,
                "provider": Reference(Provider, provider),
                "model": Reference(AiModel, name),
                "upstream_model": upstream,
                "cost_factor": Decimal(0 if free_tier else 1),
            }
            if latencies[provider] is not None:
                known["typical_latency_ms"] = latencies[provider]
            profiles.append(Shipped(f"{path.name}: profile {slug!r}", {**known, **profile}))
        entry.pop("profiles", None)
        models.append(Shipped(where, {"name": name, **entry}))
    return models, profiles


def _prices_read(path: Path, profiles: list[Shipped]) -> list[Shipped]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path.name}: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("prices"), dict):
        raise CatalogError(f"{path.name}: an object with prices is expected")
    only(data, ("about", "as_of", "prices"), path.name)
    slugs = {profile.fields["slug"] for profile in profiles}
    if unknown := sorted(set(data["prices"]) - slugs):
        raise CatalogError(f"{path.name}: no profile is called {unknown[0]!r}")
    prices = []
    # A free tier has the list price of the paid profile beside it: credits come from it, cost does not.
    for slug in (profile.fields["slug"] for profile in profiles):
        listed = slug.removesuffix(FREE_TIER_SUFFIX)
        where = f"{path.name}: {listed}"
        prices += [_price_read(slug, row, where) for row in tables(data["prices"], listed, where)]
    return prices


def _price_read(slug: str, row: dict[str, Any], where: str) -> Shipped:
    values: dict[str, Any] = {
        "profile": Reference(ModelProfile, slug),
        "effective_from": instant_read(take(row, "from", where), where),
        "source": take(row, "source", where),
        "units": {name: _price_text(value, where) for name, value in dict(row.pop("units", {})).items()},
        "tiers": [],
    }
    for tier in tables(row, "tiers", where):
        threshold = take(tier, "threshold", where)
        only(tier, _PER_TOKEN_COLUMNS, f"{where}: tier")
        if not isinstance(threshold, int) or threshold <= 0:
            raise CatalogError(f"{where}: threshold {threshold!r} is not a number of tokens")
        values["tiers"].append({"threshold": threshold} | {n: _price_text(v, where) for n, v in tier.items()})
    row.pop("tiers", None)
    only(row, _PER_TOKEN_COLUMNS, where)
    return Shipped(where, {**values, **{name: decimal_read(value, where) for name, value in row.items()}})


def _price_text(value: Any, where: str) -> str:
    """A price inside JSON, where money is a decimal string."""
    number = decimal_read(value, where)
    if number < 0:
        raise CatalogError(f"{where}: {value} is negative")
    return f"{number:f}"


def _plan_routing_read(
    path: Path, plans: PlansData, models: list[Shipped], profiles: list[Shipped], providers: set[str], at: datetime
) -> list[Shipped]:
    data = toml_read(path)
    only(data, ("defaults", "plan"), path.name)
    by_plan = data.get("plan", {})
    if missing := sorted(plans.codes ^ set(by_plan)):
        raise CatalogError(f"{path.name}: plan {missing[0]!r} is either not a plan or has no routing")
    served = {(profile.fields["provider"].key, profile.fields["model"].key) for profile in profiles}
    modes = {model.fields["name"]: model.fields["mode"] for model in models if "mode" in model.fields}
    result = []
    for code, entry in by_plan.items():
        where = f"{path.name}: plan {code!r}"
        values = {**data.get("defaults", {}), **entry}
        named = {*values.get("split", {}), *values.get("fallback", []), *values.get("expected_cost_usd", {})}
        if unknown := sorted(named - providers):
            raise CatalogError(f"{where}: unknown provider {unknown[0]!r}")
        if unknown := sorted({*values.get("models_allowed", [])} - {model for _, model in served} - {"*"}):
            raise CatalogError(f"{where}: unknown model {unknown[0]!r}")
        for provider, model in values.get("default_models", {}).items():
            if provider in modes.values():
                if modes.get(model) != provider:
                    raise CatalogError(f"{where}: {model!r} is no model for {provider!r}")
            elif (provider, model) not in served:
                raise CatalogError(f"{where}: {provider!r} does not serve {model!r}")
        if costs := values.get("expected_cost_usd"):
            values["expected_cost_usd"] = {provider: _price_text(cost, where) for provider, cost in costs.items()}
        if (allowance := values.get("cost_allowance_usd")) is not None:
            values["cost_allowance_usd"] = _allowance_read(allowance, plans, code, at, where)
        result.append(Shipped(where, {"plan": Reference(Plan, code), **values}))
    return result


def _allowance_read(text: Any, plans: PlansData, code: str, at: datetime, where: str) -> Decimal:
    """An amount in USD, or `price / n` of the plan."""
    if isinstance(text, str) and (match := _PRICE_OVER.fullmatch(text)):
        return usd_quantise(plans.price_usd(code, at) / decimal_read(match[1], where))
    return decimal_read(text, where)
