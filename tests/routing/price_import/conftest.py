"""A small catalogue and price files about it."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from routing.models import AiModel, ModelPrice, ModelProfile, Provider
from routing.price_import.reading import PriceFile, price_file_read

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def profile_make(slug: str, upstream: str, mode: str = "chat", **price: Any) -> ModelProfile:
    """A profile `provider/name`, with a price if one is given."""
    provider_slug, _, name = slug.partition("/")
    provider, _ = Provider.objects.get_or_create(
        slug=provider_slug, defaults={"name": provider_slug, "protocol": "openai", "base_url": "https://api.example.com/v1"}
    )
    model, _ = AiModel.objects.get_or_create(name=name.removesuffix(":free"), defaults={"mode": mode})
    profile = ModelProfile.objects.create(slug=slug, provider=provider, model=model, upstream_model=upstream)
    if price:
        values = {key: Decimal(value) if key.endswith("_per_mtok") else value for key, value in price.items()}
        ModelPrice.objects.create(profile=profile, effective_from=LONG_AGO, created_at=LONG_AGO, source="catalogue", **values)
    return profile


@pytest.fixture
def catalogue(db: None) -> None:
    profile_make("acme/alpha", "alpha-1", input_per_mtok="2", cached_input_per_mtok="0.5", output_per_mtok="10")
    profile_make("acme/beta", "beta-1", input_per_mtok="1", output_per_mtok="4")
    profile_make("acme/beta:free", "beta-1", input_per_mtok="1", output_per_mtok="4")
    profile_make("acme/gamma", "gamma-1")
    profile_make("other/image", "pic-1", mode="image", units={"per_image": "0.04"})


def own_file(prices: dict[str, Any], name: str = "prices.json") -> PriceFile:
    """A file in our own format, each price in force long ago unless it says otherwise."""
    rows = {slug: [{"from": "2026-01-01T00:00:00Z", "source": "list", **row}] for slug, row in prices.items()}
    return price_file_read(json.dumps({"prices": rows}).encode(), name=name, now=NOW)
