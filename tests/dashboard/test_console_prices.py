"""Prices in the console: a file is read, its differences reviewed and applied; what is in force and what is missing is seen."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from billing.accounts.models import User
from billing.events.models import Event
from iafactory.common import clock
from routing.models import ModelPrice, ModelProfile, PriceProposal
from tests.routing.price_import.conftest import catalogue

__all__ = ["catalogue"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("catalogue")]

IMPORT = reverse("admin:routing_priceproposal_import")
UNPRICED = reverse("admin:routing_priceproposal_unpriced")
FILE = b"""{"prices": {
    "acme/alpha": [{"from": "2026-01-01T00:00:00Z", "source": "list", "output_per_mtok": "11"}],
    "acme/gamma": [{"from": "2026-01-01T00:00:00Z", "input_per_mtok": "1", "output_per_mtok": "2"}],
    "acme/beta": [{"from": "2026-01-01T00:00:00Z", "output_per_mtok": "400"}],
    "acme/stranger": [{"from": "2026-01-01T00:00:00Z", "input_per_mtok": "1"}]
}}"""


def upload(console: Client, content: bytes = FILE) -> Any:
    return console.post(IMPORT, {"file": SimpleUploadedFile("list.json", content)})


@pytest.fixture
def proposal(console: Client) -> PriceProposal:
    upload(console)
    return PriceProposal.objects.get()


def page_of(proposal: PriceProposal, name: str = "change") -> str:
    return reverse(f"admin:routing_priceproposal_{name}", args=[proposal.pk])


def line_id(proposal: PriceProposal, slug: str) -> str:
    return str(proposal.lines.get(profile__slug=slug).pk)


def data(*lines: str, **changes: str) -> dict[str, Any]:
    return {"lines": lines, "effective_from_0": "", "effective_from_1": "", "reason": "new list"} | changes


def test_a_file_becomes_a_review_and_no_price(console: Client) -> None:
    before = ModelPrice.objects.count()

    answer = upload(console)

    proposal = PriceProposal.objects.get()
    text = console.get(page_of(proposal)).content.decode()
    assert (answer.status_code, answer["location"]) == (302, page_of(proposal))
    assert ModelPrice.objects.count() == before
    for told in ("acme/alpha", "+10.0 %", "another unit?", "acme/stranger", "New: no price so far"):
        assert told in text


def test_what_looks_wrong_comes_first_and_is_not_ticked(console: Client, proposal: PriceProposal) -> None:
    shown = console.get(page_of(proposal)).context["shown"]

    assert [(line.profile.slug, ticked) for line, ticked in shown] == [
        ("acme/beta", False),
        ("acme/beta:free", False),
        ("acme/alpha", True),
        ("acme/gamma", True),
    ]


def test_what_is_ticked_is_applied_at_once(console: Client, proposal: PriceProposal) -> None:
    answer = console.post(page_of(proposal), data(line_id(proposal, "acme/alpha"), line_id(proposal, "acme/gamma")))

    prices = ModelPrice.objects.filter(source__in=["list", "imported"])
    assert answer.status_code == 302
    assert {price.profile.slug: price.output_per_mtok for price in prices} == {"acme/alpha": 11, "acme/gamma": 2}
    assert Event.objects.get(kind="price_proposal.applied").actor_label == "operator@example.com"
    # Two suspicious lines are left to decide on.
    assert PriceProposal.objects.get().state == "open"


def test_prices_can_take_effect_later(console: Client, proposal: PriceProposal) -> None:
    later = clock.now() + timedelta(days=30)
    when = {"effective_from_0": f"{later:%Y-%m-%d}", "effective_from_1": "00:00:00"}

    console.post(page_of(proposal), data(line_id(proposal, "acme/alpha"), **when))

    price = ModelPrice.objects.get(source="list")
    assert f"{price.effective_from:%Y-%m-%d %H:%M}" == f"{later:%Y-%m-%d} 00:00"
    page = console.get(reverse("admin:routing_modelprofile_change", args=[price.profile_id])).content.decode()
    assert "to come" in page
    assert "in force" in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reason": ""}, "This field is required."),
        ({"effective_from_0": "2020-01-01", "effective_from_1": "00:00:00"}, "never before"),
    ],
)
def test_a_review_that_makes_no_sense_applies_nothing(
    console: Client, proposal: PriceProposal, changes: dict[str, str], told: str
) -> None:
    before = ModelPrice.objects.count()

    answer = console.post(page_of(proposal), data(line_id(proposal, "acme/alpha"), **changes))

    # What was ticked stays so.
    ticked = [line.profile.slug for line, ticked in answer.context["shown"] if ticked]
    assert told in answer.content.decode()
    assert ticked == ["acme/alpha"]
    assert ModelPrice.objects.count() == before


def test_nothing_ticked_is_nothing_applied(console: Client, proposal: PriceProposal) -> None:
    answer = console.post(page_of(proposal), data())

    assert "Choose at least one price." in answer.content.decode()


def test_a_proposal_is_closed_with_a_reason(console: Client, proposal: PriceProposal) -> None:
    console.post(page_of(proposal, "close"), {"reason": "wrong file"})

    row = PriceProposal.objects.get()
    assert (row.state, row.closed_at is not None) == ("closed", True)
    assert "Apply what is ticked" not in console.get(page_of(proposal)).content.decode()


@pytest.mark.parametrize(
    ("content", "told"), [(b"{}", "neither our table"), (b"", "submitted file is empty"), (b"nonsense", "is not JSON")]
)
def test_a_file_that_cannot_be_read_is_refused(console: Client, content: bytes, told: str) -> None:
    answer = upload(console, content)

    assert told in answer.content.decode()
    assert not PriceProposal.objects.exists()


def test_the_shipped_table_can_be_compared(console: Client) -> None:
    nothing_chosen = console.post(IMPORT, {})
    answer = console.post(IMPORT, {"shipped": "on"}, follow=True)

    assert "Choose a file, or the shipped table." in nothing_chosen.content.decode()
    # None of its models is here.
    assert "The file changes nothing" in answer.content.decode()


def test_models_without_a_price_are_listed(console: Client) -> None:
    listed = console.get(UNPRICED).content.decode()
    ModelPrice.objects.create(
        profile=ModelProfile.objects.get(slug="acme/gamma"),
        effective_from=clock.now(),
        input_per_mtok=Decimal(1),
        output_per_mtok=Decimal(1),
    )

    assert "acme/gamma" in listed
    assert "acme/alpha" not in listed
    assert "Every model in use has a price." in console.get(UNPRICED).content.decode()


def test_who_may_only_look_applies_nothing(console: Client, proposal: PriceProposal) -> None:
    viewer = User.objects.create_user("viewer@example.com", "correct horse battery", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__in=["view_priceproposal", "view_modelprofile"]))
    client = Client()
    client.force_login(viewer)
    before = ModelPrice.objects.count()

    looked = client.get(page_of(proposal))
    applied = client.post(page_of(proposal), data(line_id(proposal, "acme/alpha")))
    imported = client.get(IMPORT)
    closed = client.post(page_of(proposal, "close"), {"reason": "x"})

    assert (looked.status_code, client.get(UNPRICED).status_code) == (200, 200)
    assert (applied.status_code, imported.status_code, closed.status_code) == (403, 403, 403)
    assert "Apply what is ticked" not in looked.content.decode()
    assert ModelPrice.objects.count() == before
