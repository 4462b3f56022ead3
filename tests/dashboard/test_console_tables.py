"""Lists of the console as files: what the filters leave, no secrets, no formulas, for who may see the list."""

import csv
from collections.abc import Callable
from io import BytesIO, StringIO
from typing import Any

import pytest
from django.contrib import admin
from django.db import models
from django.test import Client
from django.urls import reverse
from openpyxl import load_workbook

from billing.models import Account, ApiKey, Event, User
from dashboard.console import tables
from dashboard.models import AlertTarget

from .conftest import ANSWER, PASSWORD, SECRET
from .test_console_pages import MODELS, list_address, text_of

Populate = Callable[[int, int], None]


def table(model: type[models.Model], file_format: str = "csv") -> str:
    return reverse("admin:table", args=[model._meta.app_label, model._meta.model_name, file_format])


def rows_of(answer: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(b"".join(answer).decode())))


def test_every_list_is_offered_as_a_file_without_secrets(console: Client, populate: Populate) -> None:
    populate(1, 2)
    hashes = [*ApiKey.objects.values_list("key_hash", flat=True), *User.objects.values_list("password", flat=True)]

    answers = {model: console.get(table(model)) for model in MODELS}
    texts = {model: b"".join(answer).decode() for model, answer in answers.items()}
    counts = {model: len(list(csv.reader(StringIO(text)))) - 1 for model, text in texts.items()}

    assert {answer.status_code for answer in answers.values()} == {200}
    assert counts == {model: admin.site._registry[model].get_queryset(_request(console)).count() for model in MODELS} | {
        Event: counts[Event]
    }
    assert [word for word in (SECRET, ANSWER, *hashes) if any(word in text for text in texts.values())] == []
    assert "address" not in texts[AlertTarget].partition("\n")[0]


def _request(console: Client) -> Any:
    return console.get(reverse("admin:index")).wsgi_request


def test_filters_search_and_order_hold(console: Client, populate: Populate) -> None:
    populate(1, 3)
    page = console.get(list_address(Account, "?q=C+2")).content.decode()

    rows = rows_of(console.get(table(Account), {"q": "C 2"}))
    ordered = rows_of(console.get(table(Account), {"kind__exact": "personal", "o": "1", "q": "C "}))

    assert f"{table(Account)}?q=C+2" in page
    assert [row["name"] for row in rows] == ["C 2"]
    assert [row["name"] for row in ordered] == ["C 1", "C 2", "C 3"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_no_cell_is_a_formula(console: Client, account: Account, name: str) -> None:
    Account.objects.filter(pk=account.pk).update(name=name)

    [row] = rows_of(console.get(table(Account)))
    book = load_workbook(BytesIO(b"".join(console.get(table(Account, "xlsx")))))
    cells = [cell for line in book.active.iter_rows() for cell in line]

    assert row["name"] == f"'{name}"
    assert {cell.data_type for cell in cells} <= {"s", "n", "b", "d", "inlineStr"}
    assert f"'{name}" in [cell.value for cell in cells]


def test_a_spreadsheet_has_numbers_and_instants(console: Client, populate: Populate) -> None:
    populate(1, 1)

    book = load_workbook(BytesIO(b"".join(console.get(table(admin_model("billing.wallet"), "xlsx"), {"q": "c1@example.com"}))))
    header, line = list(book.active.iter_rows(values_only=True))[:2]

    assert "balance" in header
    assert float(line[header.index("balance")]) == 8.65


def admin_model(label: str) -> type[models.Model]:
    return next(model for model in MODELS if model._meta.label_lower == label)


def test_a_spreadsheet_that_would_be_too_long_is_refused(
    console: Client, populate: Populate, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate(1, 2)
    monkeypatch.setattr(tables, "XLSX_MOST_ROWS", 1)

    answer = console.get(table(Account, "xlsx"), follow=True)

    assert "More than 1 rows" in text_of(answer)
    assert not Event.objects.filter(kind="table.exported").exists()


def test_who_may_not_see_a_list_gets_no_file(account: Account) -> None:
    client = Client()
    client.force_login(User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True))

    assert [client.get(table(Account, file_format)).status_code for file_format in ("csv", "xlsx")] == [403, 403]
    assert not Event.objects.filter(kind="table.exported").exists()


def test_each_file_is_on_record(console: Client, account: Account) -> None:
    b"".join(console.get(table(Account), {"q": "sara"}))

    event = Event.objects.get(kind="table.exported")
    assert (event.object_type, event.actor_label, event.after) == (
        "account",
        "operator@example.com",
        {"format": "csv", "query": "q=sara"},
    )


def test_no_file_of_what_is_no_list(console: Client) -> None:
    addresses = ("/admin/tables/billing/nothing.csv", "/admin/tables/billing/account.pdf", "/admin/tables/sessions/session.csv")

    assert [console.get(address).status_code for address in addresses] == [404, 404, 404]
