"""`/api/billing/profile`: whom invoices are made out to, with identifiers that can be right."""

from typing import Any

import pytest

from billing.accounts.models import Account, Membership
from billing.events.models import Event
from billing.invoices.models import BillingProfile, SellerProfile
from tests.billing.api.conftest import code, key_client, session_client
from tests.factories import account_make

from .test_invoice_services import issued

pytestmark = pytest.mark.django_db
ADDRESS = "/api/billing/profile"


@pytest.fixture(autouse=True)
def _addresses(settings: Any) -> None:
    settings.ROOT_URLCONF = "billing.urls"


def patch(account: Account, **changes: Any) -> Any:
    return session_client(account).patch(ADDRESS, changes, format="json")


def test_before_anything_is_said_the_account_itself_is_billed(account: Account) -> None:
    body = session_client(account).get(ADDRESS).json()

    assert (body["name"], body["country"], body["tax_status"]) == (account.name, account.country, "consumer")
    assert not BillingProfile.objects.exists()


def test_a_company_is_billed_under_its_name(seller: SellerProfile, account: Account) -> None:
    answer = patch(
        account,
        name="Cabinet Benali",
        legal_form="SPA",
        tax_status="business",
        language="ar",
        identifiers={"nif": "0009 1600 1122 334", "rc": "16/00-7654321b15", "ai": ""},
    )

    invoice = issued(account)
    assert answer.status_code == 200
    assert answer.json()["identifiers"] == {"rc": "16/00-7654321 B 15", "nif": "000916001122334"}
    assert (invoice.customer_snapshot["name"], invoice.language) == ("Cabinet Benali", "ar")
    event = Event.objects.get(kind="billing_profile.changed")
    assert (event.account_id, event.after["legal_form"], event.before["legal_form"]) == (account.pk, "SPA", "")


def test_what_is_left_out_stays(account: Account) -> None:
    patch(account, name="A", city="Oran", identifiers={"nif": "000916001122334"})

    body = patch(account, city="Alger").json()

    assert (body["name"], body["city"], body["identifiers"]) == ("A", "Alger", {"nif": "000916001122334"})


@pytest.mark.parametrize(
    ("country", "identifiers", "name", "reason"),
    [
        ("DZ", {"nif": "123"}, "nif", "nif_invalid"),
        ("DZ", {"rc": "x"}, "rc", "rc_invalid"),
        ("IN", {"gstin": "27AAPFU0939F1ZW"}, "gstin", "gstin_check_failed"),
        ("IN", {"gstin": "99AAPFU0939F1ZV"}, "gstin", "gstin_state_unknown"),
    ],
)
def test_a_wrong_identifier_says_which_and_why(
    account: Account, country: str, identifiers: dict[str, str], name: str, reason: str
) -> None:
    answer = patch(account, country=country, identifiers=identifiers)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "identifier_invalid", f"identifiers.{name}")
    assert error["details"] == {"identifier": name, "reason": reason}
    assert not BillingProfile.objects.exists()


def test_a_gstin_tells_the_state(account: Account) -> None:
    body = patch(account, country="IN", identifiers={"gstin": "27aapfu0939f1zv"}).json()
    wrong = patch(account, region="29")
    unknown = patch(account, region="77")

    assert (body["region"], body["identifiers"]) == ("27", {"gstin": "27AAPFU0939F1ZV"})
    assert [code(answer) for answer in (wrong, unknown)] == [(400, "region_invalid")] * 2


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"country": "Algeria"}, "country"),
        ({"language": "de"}, "language"),
        ({"tax_status": "exempt"}, "tax_status"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"identifiers": {"a b": "x"}}, "identifiers"),
        ({"identifiers": {"nif": 5}}, "identifiers"),
    ],
)
def test_what_makes_no_sense_is_refused(account: Account, changes: dict[str, Any], param: str) -> None:
    answer = patch(account, **changes)

    assert (answer.status_code, answer.json()["error"]["param"].split(".")[0]) == (400, param)
    assert not BillingProfile.objects.exists()


def test_an_exemption_is_the_operators_word(account: Account) -> None:
    BillingProfile.objects.create(account=account, name="A", tax_status="exempt", exemption="n° 5")

    assert code(patch(account, tax_status="business")) == (409, "exemption_stands")
    assert patch(account, city="Oran").json()["tax_status"] == "exempt"


def test_only_owners_change_it(account: Account) -> None:
    team = Account.objects.create(kind="organisation", name="Team")
    assert account.personal_of is not None
    Membership.objects.create(account=team, user=account.personal_of, role="member")
    client = session_client(account, HTTP_X_ACCOUNT=str(team.pk))

    assert client.get(ADDRESS).json()["name"] == "Team"
    assert code(client.patch(ADDRESS, {"name": "Mine"}, format="json")) == (403, "owner_required")
    assert code(key_client(account).patch(ADDRESS, {"name": "Mine"}, format="json")) == (403, "user_session_required")
    assert not BillingProfile.objects.exists()


def test_anothers_account_does_not_exist(account: Account) -> None:
    stranger = account_make()

    answer = session_client(account, HTTP_X_ACCOUNT=str(stranger.pk)).get(ADDRESS)

    assert code(answer) == (404, "not_found")
