"""Models point down the import order only: a string such as "billing.Plan" escapes the import contracts."""

import pytest
from django.db import models

from billing.accounts.models import Account
from billing.events.models import Event
from billing.ledger.models import Lot
from routing.models import PlanRouting

from .product import height, product_models, relations

RELATIONS = [(model, field) for model in product_models() for field in relations(model)]


def test_heights_follow_the_order_of_the_apps_and_of_the_billing_packages() -> None:
    assert (0, 0) < height(Event) < height(Account) < height(Lot) < height(PlanRouting)
    assert len(RELATIONS) > 20


@pytest.mark.parametrize("model", product_models(), ids=lambda model: model._meta.label)
def test_a_model_lives_in_a_package_that_has_a_place_in_the_order(model: type[models.Model]) -> None:
    app, package = height(model)

    assert app > 0
    # billing.models and its like only re-export, so they stand on top and may own nothing.
    assert (model._meta.app_label != "billing") or (0 < package < height_of_reexports())


def height_of_reexports() -> int:
    """The height of `billing.models`."""
    return height(type("Probe", (), {"__module__": "billing.models"}))[1]  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "field"), RELATIONS, ids=[f"{m._meta.label}.{f.name}" for m, f in RELATIONS])
def test_no_relation_points_upward(model: type[models.Model], field: models.ForeignKey) -> None:  # type: ignore[type-arg]
    target = field.related_model

    assert height(target) <= height(model), f"{model._meta.label}.{field.name} points up to {target._meta.label}"
