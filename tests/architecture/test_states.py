"""A table of allowed moves names every state of its model, as origin, and nothing else."""

import pytest
from django.db import models

from billing.models import Subscription

from .product import product_models

WITH_STATES = [model for model in product_models() if hasattr(model, "State")]


def test_the_search_finds_the_models_that_move() -> None:
    assert Subscription in WITH_STATES


@pytest.mark.parametrize("model", WITH_STATES, ids=lambda model: model._meta.label)
def test_moves_cover_every_state(model: type[models.Model]) -> None:
    states = {str(state) for state in model.State.values}  # type: ignore[attr-defined]
    moves = {str(state): {str(to) for to in targets} for state, targets in model.MOVES.items()}  # type: ignore[attr-defined]

    assert set(moves) == states
    assert set().union(*moves.values()) <= states
    assert [state for state, targets in moves.items() if state in targets] == []


@pytest.mark.parametrize("model", WITH_STATES, ids=lambda model: model._meta.label)
def test_every_state_can_be_reached_or_begins(model: type[models.Model]) -> None:
    moves = model.MOVES  # type: ignore[attr-defined]
    [first] = [state for state in moves if all(state not in targets for targets in moves.values())]

    assert str(first) == str(model.State.values[0])  # type: ignore[attr-defined]
