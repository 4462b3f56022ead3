"""Long lists of the console as CSV: what the filters leave, in pieces, however many rows of one instant there are."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import AsyncRequestFactory, Client
from django.urls import reverse

from billing.accounts.models import User
from billing.ledger.models import LedgerEntry, UsageRecord
from iafactory.common import csv_lists
from iafactory.common.csv_tables import csv_response
from tests.billing.ledger.test_rollups import call
from tests.factories import account_make

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_lists, "ROWS_AT_ONCE", 3)


def table(response: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(b"".join(response.streaming_content).decode().splitlines()))


@pytest.mark.django_db
def test_all_rows_of_the_filtered_list_newest_first(console: Client) -> None:
    account = account_make(credits=100)
    for number in range(7):
        # Three instants: rows of one instant cross the border between two pieces.
        call(account, NOW - timedelta(minutes=number // 3), model=f"m{number}", provider="p")
    call(account, NOW, provider="another")

    rows = table(console.get(reverse("admin:billing_usagerecord_csv"), {"provider": "p"}))

    wanted = UsageRecord.objects.filter(provider="p").order_by("-started_at", "-id").values_list("id", flat=True)
    assert [row["id"] for row in rows] == [str(identifier) for identifier in wanted]
    assert len({row["model"] for row in rows}) == 7
    assert {(row["cost_usd"], row["credits_charged"], row["end"]) for row in rows} == {("0.001000000", "1.000000", "complete")}


@pytest.mark.django_db
@pytest.mark.parametrize("count", [0, 3, 6])
def test_lists_whose_length_fills_the_last_piece_end(console: Client, count: int) -> None:
    account = account_make(credits=100)
    for _ in range(count):
        call(account, NOW)

    assert len(table(console.get(reverse("admin:billing_usagerecord_csv")))) == count


@pytest.mark.django_db
def test_entries_come_with_their_transactions(console: Client) -> None:
    call(account_make(credits=5), NOW)

    rows = table(console.get(reverse("admin:billing_ledgerentry_csv")))

    assert [row["id"] for row in rows] == [str(pk) for pk in LedgerEntry.objects.order_by("-id").values_list("pk", flat=True)]
    assert [(row["transaction__kind"], row["ledger_account__kind"], row["amount"]) for row in rows[:2]] == [
        ("call", "consumed", "1.000000000"),
        ("call", "wallet", "-1.000000000"),
    ]


@pytest.mark.django_db
def test_no_cell_is_a_formula(console: Client) -> None:
    call(account_make(credits=5), NOW, model="=HYPERLINK(1)")

    [row] = table(console.get(reverse("admin:billing_usagerecord_csv")))

    assert row["model"] == "'=HYPERLINK(1)"


@pytest.mark.django_db
@pytest.mark.parametrize("model", ["usagerecord", "ledgertransaction", "ledgerentry"])
def test_only_those_who_see_the_list_get_it(client: Client, model: str) -> None:
    operator = User.objects.create_user("o@example.com", "correct horse battery", is_staff=True)
    operator.user_permissions.add(Permission.objects.get(codename="view_account"))
    client.force_login(operator)

    assert client.get(reverse(f"admin:billing_{model}_csv")).status_code == 403


@pytest.mark.django_db
def test_the_list_has_the_button(console: Client) -> None:
    page = console.get(reverse("admin:billing_usagerecord_changelist"), {"provider": "p"}).content.decode()

    assert f'href="{reverse("admin:billing_usagerecord_csv")}?provider=p"' in page


async def test_under_asgi_a_piece_is_made_only_when_it_is_asked_for() -> None:
    made = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            made.append(number)
            yield b"%d" % number

    response = csv_response(AsyncRequestFactory().get("/"), pieces(), file_name="a.csv")
    content: Any = aiter(response)
    first = await anext(content)

    assert (response.is_async, first, made) == (True, b"0", [0])
    assert [piece async for piece in content] == [b"1", b"2"]
