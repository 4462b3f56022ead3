"""From a price file to price rows: what differs, what looks wrong, and applying all of it or some, now or later."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from freezegun import freeze_time

from billing.events.models import Event
from billing.events.services import SYSTEM
from iafactory.common.errors import ApiError
from routing.catalog import catalog_load
from routing.models import ModelPrice, ModelProfile, PriceProposal, PriceProposalLine, model_price_at
from routing.price_import.selectors import unpriced_profiles
from routing.price_import.services import (
    price_differences,
    price_proposal_apply,
    price_proposal_close,
    price_proposal_create,
)

from .conftest import NOW, own_file, profile_make

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("catalogue")]

ALPHA = {"input_per_mtok": "2", "cached_input_per_mtok": "0.5", "output_per_mtok": "10"}


@pytest.fixture(autouse=True)
def _at_noon() -> Iterator[None]:
    with freeze_time(NOW):
        yield


def lines_of(prices: dict[str, Any]) -> dict[str, PriceProposalLine]:
    return {line.profile.slug: line for line in price_differences(own_file(prices), now=NOW).lines}


def proposal_of(prices: dict[str, Any]) -> PriceProposal:
    proposal, _ = price_proposal_create(file=own_file(prices), actor=SYSTEM)
    assert proposal is not None
    return proposal


def apply_all(proposal: PriceProposal, **options: Any) -> list[ModelPrice]:
    ids = list(proposal.lines.values_list("pk", flat=True))
    return price_proposal_apply(**{"proposal": proposal, "line_ids": ids, "actor": SYSTEM, "reason": "new list", **options})


def newest(slug: str, at: datetime = NOW) -> tuple[Decimal | None, Decimal | None]:
    price = model_price_at(ModelProfile.objects.get(slug=slug), at)
    assert price is not None
    return price.input_per_mtok, price.output_per_mtok


# --- What differs ---


def test_changed_new_missing_unchanged_and_unknown() -> None:
    file = own_file(
        {
            "acme/alpha": {**ALPHA, "output_per_mtok": "12"},
            "acme/beta": {"input_per_mtok": "1.0", "output_per_mtok": "4"},
            "acme/stranger": {"input_per_mtok": "1"},
        }
    )

    found = price_differences(file, now=NOW)

    assert [(line.profile.slug, line.kind) for line in found.lines] == [("acme/alpha", "changed"), ("acme/gamma", "missing")]
    assert found.lines[0].differences == [{"name": "output_per_mtok", "before": "10", "after": "12", "percent": "+20.0"}]
    # The paid profile and its free tier.
    assert (found.unchanged, found.unknown) == (2, ["acme/stranger"])


def test_a_profile_without_a_price_gets_a_new_one() -> None:
    line = lines_of({"acme/gamma": {"input_per_mtok": "1", "output_per_mtok": "2"}})["acme/gamma"]

    assert (line.kind, line.present) == ("new", None)
    assert line.prices == {"columns": {"input_per_mtok": "1", "output_per_mtok": "2"}, "units": {}, "tiers": []}
    assert line.warnings == []


def test_a_free_tier_has_the_list_price_of_its_paid_profile() -> None:
    lines = lines_of({"acme/beta": {"input_per_mtok": "1", "output_per_mtok": "5"}})

    assert lines["acme/beta:free"].differences == lines["acme/beta"].differences


def test_what_the_file_does_not_say_stays_as_it_is() -> None:
    line = lines_of({"acme/alpha": {"input_per_mtok": "3"}})["acme/alpha"]

    assert line.prices["columns"] == {"input_per_mtok": "3", "cached_input_per_mtok": "0.5", "output_per_mtok": "10"}
    assert [change["name"] for change in line.differences] == ["input_per_mtok"]


def test_units_and_tiers_are_compared_too() -> None:
    lines = lines_of(
        {
            "other/image": {"units": {"per_image": "0.05", "per_image_high": "0.1"}},
            "acme/alpha": {**ALPHA, "tiers": [{"threshold": 200000, "input_per_mtok": "4"}]},
        }
    )

    assert [(c["name"], c["before"], c["after"]) for c in lines["other/image"].differences] == [
        ("units.per_image", "0.04", "0.05"),
        ("units.per_image_high", None, "0.1"),
    ]
    assert [(c["name"], c["after"]) for c in lines["acme/alpha"].differences] == [("above 200000.input_per_mtok", "4")]


@pytest.mark.parametrize(
    ("price", "warnings"),
    [
        ({"output_per_mtok": "14.9"}, []),
        ({"output_per_mtok": "15"}, ["output_per_mtok changes by +50.0 %"]),
        ({"output_per_mtok": "5.1"}, []),
        ({"output_per_mtok": "5"}, ["output_per_mtok changes by -50.0 %"]),
        ({"output_per_mtok": "1000"}, ["output_per_mtok changes by a factor of 100 or more: another unit?"]),
        ({"output_per_mtok": "0"}, ["output_per_mtok becomes zero", "output is cheaper than input"]),
        (
            {"input_per_mtok": "2.1", "cached_input_per_mtok": "2.2"},
            ["cached_input_per_mtok changes by +340.0 %", "cached input is dearer than fresh input"],
        ),
    ],
)
def test_what_looks_wrong_is_said(price: dict[str, str], warnings: list[str]) -> None:
    assert lines_of({"acme/alpha": {**ALPHA, **price}})["acme/alpha"].warnings == warnings


def test_a_file_that_changes_nothing_makes_no_proposal() -> None:
    proposal, found = price_proposal_create(file=own_file({"acme/alpha": ALPHA}), actor=SYSTEM)

    assert (proposal, found.unchanged) == (None, 1)
    assert not PriceProposal.objects.exists()
    assert not Event.objects.exists()


# --- Applying ---


def test_applied_prices_are_new_rows_and_old_ones_stay() -> None:
    before = ModelPrice.objects.count()
    proposal = proposal_of({"acme/alpha": {**ALPHA, "output_per_mtok": "12"}, "acme/gamma": {"input_per_mtok": "1"}})

    rows = apply_all(proposal)

    proposal.refresh_from_db()
    assert (len(rows), ModelPrice.objects.count() - before, proposal.state) == (2, 2, "applied")
    assert newest("acme/alpha") == (2, 12)
    row = model_price_at(ModelProfile.objects.get(slug="acme/alpha"), NOW)
    assert row is not None
    assert (row.cached_input_per_mtok, row.source, row.effective_from) == (Decimal("0.5"), "list", NOW)
    assert newest("acme/alpha", NOW - timedelta(seconds=1)) == (2, 10)
    assert Event.objects.filter(kind="model_price.created").count() == 2
    event = Event.objects.get(kind="price_proposal.applied")
    assert (event.reason, event.after["profiles"]) == ("new list", ["acme/alpha", "acme/gamma"])


def test_units_and_tiers_are_applied() -> None:
    tiers = [{"threshold": 200000, "input_per_mtok": "4"}]
    proposal = proposal_of({"other/image": {"units": {"per_image": "0.05"}}, "acme/beta": {"tiers": tiers}})

    apply_all(proposal)

    image = model_price_at(ModelProfile.objects.get(slug="other/image"), NOW)
    beta = model_price_at(ModelProfile.objects.get(slug="acme/beta"), NOW)
    assert image is not None
    assert beta is not None
    assert (image.units, beta.tiers, beta.input_per_mtok) == ({"per_image": "0.05"}, tiers, 1)


def test_some_now_and_the_rest_later() -> None:
    proposal = proposal_of({"acme/alpha": {**ALPHA, "output_per_mtok": "12"}, "acme/gamma": {"input_per_mtok": "1"}})
    alpha, gamma = proposal.lines.filter(kind__in=["new", "changed"]).order_by("profile__slug")
    apply_all(proposal, line_ids=[alpha.pk])
    proposal.refresh_from_db()
    halfway = proposal.state

    apply_all(proposal, line_ids=[alpha.pk, gamma.pk])

    proposal.refresh_from_db()
    assert (halfway, proposal.state) == ("open", "applied")
    assert ModelPrice.objects.filter(profile=alpha.profile).count() == 2


def test_prices_ahead_of_time() -> None:
    later = NOW + timedelta(days=11)

    apply_all(proposal_of({"acme/alpha": {**ALPHA, "output_per_mtok": "12"}}), effective_from=later)

    assert (newest("acme/alpha"), newest("acme/alpha", later)) == ((2, 10), (2, 12))


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"effective_from": NOW}, "effective_from"),
        ({"effective_from": NOW - timedelta(days=1)}, "effective_from"),
        ({"reason": " "}, "reason"),
        ({"line_ids": []}, "lines"),
    ],
)
def test_what_makes_no_sense_applies_nothing(options: dict[str, Any], param: str) -> None:
    proposal = proposal_of({"acme/alpha": {**ALPHA, "output_per_mtok": "12"}})
    before = ModelPrice.objects.count()

    with pytest.raises(ApiError) as refusal:
        apply_all(proposal, **options)

    assert (refusal.value.code, refusal.value.param) == ("invalid_request", param)
    assert ModelPrice.objects.count() == before


def test_all_or_none_when_a_profile_got_another_price_meanwhile() -> None:
    proposal = proposal_of({"acme/alpha": {**ALPHA, "output_per_mtok": "12"}, "acme/gamma": {"input_per_mtok": "1"}})
    with freeze_time(NOW + timedelta(minutes=1)):
        ModelPrice.objects.create(profile=ModelProfile.objects.get(slug="acme/gamma"), effective_from=NOW, input_per_mtok=7)
        before = ModelPrice.objects.count()

        with pytest.raises(ApiError) as refusal:
            apply_all(proposal)

    assert (refusal.value.status, refusal.value.code) == (409, "price_changed")
    assert "acme/gamma" in refusal.value.message
    assert ModelPrice.objects.count() == before


def test_a_closed_proposal_applies_nothing() -> None:
    proposal = proposal_of({"acme/alpha": {**ALPHA, "output_per_mtok": "12"}})
    price_proposal_close(proposal=proposal, actor=SYSTEM, reason="wrong file")
    price_proposal_close(proposal=proposal, actor=SYSTEM, reason="again")

    with pytest.raises(ApiError) as refusal:
        apply_all(proposal)

    proposal.refresh_from_db()
    assert (refusal.value.code, proposal.state) == ("price_proposal_closed", "closed")
    assert Event.objects.filter(kind="price_proposal.closed").count() == 1


# --- The command ---


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("import_prices", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_keeps_a_proposal_and_changes_no_price(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(
        '{"prices": {"acme/alpha": [{"from": "2026-01-01T00:00:00Z", "output_per_mtok": "20"}], '
        '"x/y": [{"from": "2026-01-01T00:00:00Z", "input_per_mtok": "1"}]}}'
    )

    dry = run(str(path), "--dry-run")
    kept_by_dry_run = PriceProposal.objects.count()
    said = run(str(path))

    proposal = PriceProposal.objects.get()
    assert kept_by_dry_run == 0
    assert "changed  acme/alpha: output_per_mtok 10 -> 20 (+100.0 %)  !! output_per_mtok changes by +100.0 %" in dry
    assert "missing  acme/beta" in said
    assert "list.json: 0 new, 1 changed, 3 missing, 1 suspicious, 0 unchanged, 1 of nobody here." in said
    assert f"/admin/routing/priceproposal/{proposal.pk}/change/" in said
    assert newest("acme/alpha") == (2, 10)


def test_the_command_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")

    for path in ("bad.json", "nowhere.json"):
        with pytest.raises(CommandError):
            run(str(tmp_path / path))


def test_the_shipped_table_agrees_with_the_loaded_catalogue() -> None:
    ModelProfile.objects.all().update(enabled=False)
    catalog_load()

    said = run("shipped")

    # One shipped model has no price: nobody publishes any.
    assert "missing  elevenlabs/music_v1\nshipped: 0 new, 0 changed, 1 missing, 0 suspicious" in said
    assert said.endswith("Nothing to apply.\n")


# --- Models without a price ---


def test_models_that_are_refused_for_want_of_a_price() -> None:
    profile_make("acme/half", "half-1", input_per_mtok="1")
    profile_make("other/picture", "pic-2", mode="image", input_per_mtok="1", output_per_mtok="1")
    off = profile_make("acme/off", "off-1")
    ModelProfile.objects.filter(pk=off.pk).update(enabled=False)
    gamma = ModelProfile.objects.get(slug="acme/gamma")
    coming = ModelPrice.objects.create(
        profile=gamma, effective_from=NOW + timedelta(days=1), input_per_mtok=1, output_per_mtok=1
    )

    found = unpriced_profiles(now=NOW)

    assert [row.profile.slug for row in found] == ["acme/gamma", "acme/half", "other/picture"]
    assert [row.next_price for row in found] == [coming, None, None]
    assert [row.price is not None for row in found] == [False, True, True]
    assert "acme/gamma" not in {row.profile.slug for row in unpriced_profiles(now=NOW + timedelta(days=1))}
