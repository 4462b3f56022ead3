"""A company on loopback that knows which keys are good."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from billing.accounts.models import User
from billing.events.models import Event
from billing.events.services import Actor
from iafactory.common import clock
from routing.models import AiModel, ModelPrice, ModelProfile, Provider
from tests.fakes.company import Company, company_open


@pytest.fixture
def company() -> Iterator[Company]:
    with company_open() as company:
        yield company


def profile_make(provider: Provider, name: str, output_price: str | None, **fields: Any) -> ModelProfile:
    model = AiModel.objects.create(name=name, mode=fields.pop("mode", "chat"))
    profile = ModelProfile.objects.create(
        slug=f"{provider.slug}/{name}", provider=provider, model=model, upstream_model=f"up-{name}", **fields
    )
    if output_price is not None:
        ModelPrice.objects.create(
            profile=profile, effective_from=clock.now(), input_per_mtok=Decimal(1), output_per_mtok=Decimal(output_price)
        )
    return profile


@pytest.fixture
def provider(db: None, company: Company) -> Provider:
    """The company as a provider with a dear and a cheap chat model."""
    provider = Provider.objects.create(slug="acme", name="Acme", protocol="openai", base_url=company.url)
    profile_make(provider, "dear", "30")
    profile_make(provider, "cheap", "0.5")
    return provider


@pytest.fixture
def actor(db: None) -> Actor:
    user = User.objects.create_superuser("operator@example.com", "correct horse battery")
    return Actor(Event.ActorKind.OPERATOR, id=user.pk, label=user.email)
