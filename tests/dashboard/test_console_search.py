"""The box that finds anything: by what customers and gateways tell, and only what the operator may see."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse

from billing.accounts.models import Account, ApiKey, User
from billing.models import Invoice, Payment, Refund, Subscription, UsageRecord
from dashboard.console.search import hits
from dashboard.roles import SUPPORT, roles_sync
from iafactory.common.admin import change_url

Populate = Callable[[int, int], None]


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (Invoice, "number"),
        (Payment, "reference"),
        (Refund, "reference"),
        (User, "email"),
        (UsageRecord, "pk"),
        (Subscription, "pk"),
        (ApiKey, "prefix"),
    ],
)
def test_it_is_found_by_what_names_it(
    operator: User, populate: Populate, model: type[Invoice | Payment | Refund | User | UsageRecord | ApiKey], field: str
) -> None:
    populate(1, 3)
    row = model._default_manager.exclude(**{f"{field}__isnull": True}).order_by("pk").first()
    assert row is not None
    wanted = row.account if isinstance(row, ApiKey) else row

    found = hits(operator, f" {getattr(row, field)} ")

    assert change_url(wanted._meta.label_lower, wanted.pk) in [hit.url for hit in found]


def test_the_only_thing_found_opens(console: Client, populate: Populate) -> None:
    populate(1, 2)
    payment = Payment.objects.order_by("pk").first()
    assert payment is not None

    answer = console.get(reverse("admin:search"), {"q": payment.reference})

    assert (answer.status_code, answer.headers["Location"]) == (302, change_url("billing.payment", payment.pk))


def test_several_are_listed_with_their_accounts(console: Client, account: Account) -> None:
    other = Account.objects.create(kind=Account.Kind.ORGANISATION, name=f"{account.name} too", time_zone="UTC")

    page = console.get(reverse("admin:search"), {"q": account.name}).content.decode()

    assert change_url("billing.account", account.pk) in page
    assert change_url("billing.account", other.pk) in page


@pytest.mark.parametrize("term", ["", "nothing-of-that-name", "\0", "x" * 5000, "<script>alert(1)</script>"])
def test_nothing_found_says_what_can_be_asked(console: Client, term: str) -> None:
    answer = console.get(reverse("admin:search"), {"q": term})

    page = answer.content.decode()
    assert answer.status_code == 200
    assert "the beginning of an API key" in page
    assert "<script>alert" not in page


def test_an_operator_finds_only_what_they_may_see(operator: User, populate: Populate) -> None:
    populate(1, 2)
    roles_sync()
    clerk = User.objects.create_user("clerk@example.com", "correct horse battery", is_staff=True)
    payment = Payment.objects.order_by("pk").first()
    assert payment is not None
    before = hits(clerk, payment.reference)
    clerk.groups.add(Group.objects.get(name=SUPPORT))

    after = hits(User.objects.get(pk=clerk.pk), payment.reference)

    assert (before, [hit.url for hit in after]) == ([], [change_url("billing.payment", payment.pk)])


def test_strangers_are_sent_to_the_login(db: None) -> None:
    answer = Client().get(reverse("admin:search"), {"q": "a"})

    assert answer.status_code == 302
    assert reverse("admin:login") in answer.headers["Location"]
