"""Lists read from files: shown line by line first, then all of it or nothing, and exactly what was shown."""

from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from openpyxl import Workbook, load_workbook

from billing.accounts.models import User
from billing.events.models import Event
from billing.plans.models import FxRate, Plan, PlanPrice
from dashboard.console.imports.reading import LARGEST_FILE, FileRefused, table_read
from dashboard.console.wizards.models import ConsoleDraft
from dashboard.roles import FINANCE, SUPPORT
from routing.models import AiModel, ModelPrice, ModelProfile, PlanRouting, Provider

from ..conftest import PASSWORD

pytestmark = pytest.mark.django_db

PLANS = reverse("admin:billing_plan_import")
PRICES = reverse("admin:billing_planprice_import")
LIST_PRICES = reverse("admin:routing_modelprice_import")
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def basic(db: None) -> Plan:
    plan = Plan.objects.create(code="basic", family="x", name="Basic", billing_mode="credits", period_credits=500)
    PlanPrice.objects.create(plan=plan, currency="DZD", amount=1000, effective_from=LONG_AGO)
    return plan


@pytest.fixture
def profile(db: None) -> ModelProfile:
    provider = Provider.objects.create(slug="acme", name="Acme", protocol="openai", base_url="https://api.acme.example/v1")
    model = AiModel.objects.create(name="acme-large")
    made = ModelProfile.objects.create(slug="acme/acme-large", provider=provider, model=model, upstream_model="acme-large")
    ModelPrice.objects.create(
        profile=made,
        effective_from=LONG_AGO,
        input_per_mtok=1,
        output_per_mtok=4,
        units={"per_1k_web_searches": "10"},
        tiers=[{"threshold": 200000, "input_per_mtok": "2"}],
        source="list",
    )
    return made


def file(content: str | bytes, name: str = "list.csv") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content.encode() if isinstance(content, str) else content)


def spreadsheet(*rows: list[Any]) -> bytes:
    book = Workbook()
    for row in rows:
        book.active.append(row)
    buffer = BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def preview(console: Client, address: str, content: str | bytes, name: str = "list.csv") -> Any:
    """The page that shows what a file would do, or the first one with what is wrong with the file."""
    answer = console.post(address, {"file": file(content, name)})
    return console.get(answer["location"]) if answer.status_code == 302 else answer


def states(page: Any) -> list[tuple[int, str, str]]:
    return sorted((line.number, line.state, line.reason) for line in page.context["lines"])


def confirm(console: Client, page: Any, **changes: str) -> Any:
    address = f"{page.request['PATH_INFO']}?{page.request['QUERY_STRING']}"
    return console.post(address, {"seen": page.context["seen"], "reason": "new list", **changes})


def error(page: Any) -> str:
    return str(page.context["form"].errors["file"][0])


# --- What a file does ---


def test_new_changed_and_unchanged_plans_are_shown_and_then_written(console: Client, basic: Plan) -> None:
    content = "code,name,family,billing_mode,period_credits\nbasic,Basic,x,credits,800\ngrand,Grand,x,credits,2000\n"
    page = preview(console, PLANS, content)
    before = (Plan.objects.count(), Event.objects.count())

    answer = confirm(console, page)

    by_key = {line.key: line for line in page.context["lines"]}
    assert states(page) == [(2, "changed", ""), (3, "new", "")]
    assert by_key["basic"].differences == [("period_credits", "500", "800")]
    assert before == (1, 0)
    assert answer["location"] == reverse("admin:billing_plan_changelist")
    assert dict(Plan.objects.values_list("code", "period_credits")) == {"basic": Decimal(800), "grand": Decimal(2000)}
    assert Plan.objects.get(code="grand").visibility == "hidden"
    told = {event.kind: event for event in Event.objects.all()}
    assert sorted(told) == ["plan.created", "plan.edited", "table.imported"]
    assert told["table.imported"].reason == "new list"
    assert {name: told["table.imported"].after[name] for name in ("new", "changed", "unchanged", "file")} == {
        "new": 1,
        "changed": 1,
        "unchanged": 0,
        "file": "list.csv",
    }


def test_one_refused_line_keeps_everything_out(console: Client, basic: Plan) -> None:
    page = preview(console, PLANS, "code,name,period_credits\nbasic,Other,800\ngrand,Grand,-5\n")

    answer = confirm(console, page)

    assert states(page) == [(2, "changed", ""), (3, "refused", "family: This field cannot be blank.")]
    assert answer.status_code == 200
    assert answer.context["form"].non_field_errors() == ["Lines are refused: mend the file and read it again."]
    assert (Plan.objects.count(), Plan.objects.get().name, Event.objects.count()) == (1, "Basic", 0)


def test_what_changed_after_the_preview_is_not_written(console: Client, basic: Plan) -> None:
    page = preview(console, PLANS, "code,period_credits\nbasic,800\n")
    Plan.objects.update(period_credits=600)

    refused = confirm(console, page)
    again = confirm(console, refused)

    assert refused.context["form"].non_field_errors() == [
        "This is not what you saw: something changed meanwhile. Look at it again."
    ]
    assert refused.context["lines"][0].differences == [("period_credits", "600", "800")]
    assert (again.status_code, Plan.objects.get().period_credits) == (302, Decimal(800))


def test_another_file_is_not_confirmed_by_the_first_ones_page(console: Client, basic: Plan) -> None:
    first = preview(console, PLANS, "code,period_credits\nbasic,800\n")
    query = first.request["QUERY_STRING"]
    console.post(f"{PLANS}?{query.replace('page=preview', 'page=file')}", {"file": file("code,period_credits\nbasic,9\n")})

    refused = confirm(console, first)

    assert refused.status_code == 200
    assert Plan.objects.get().period_credits == Decimal(500)


def test_a_second_submit_imports_nothing_twice(console: Client, basic: Plan) -> None:
    page = preview(console, PRICES, "plan,currency,amount\nbasic,DZD,1500\n")

    first, second = confirm(console, page), confirm(console, page)

    assert first["location"] == second["location"]
    assert list(PlanPrice.objects.order_by("effective_from").values_list("amount", flat=True)) == [1000, 1500]


def test_prices_are_added_and_never_changed(console: Client, basic: Plan) -> None:
    rows = [
        "plan;currency;amount;effective_from",
        "basic;DZD;1000;",
        "basic;dzd;1200;2026-01-01T00:00:00Z",
        "basic;USD;9.5;2030-01-01",
        "basic;EUR;8;2026-01-02",
        "nobody;DZD;5;",
    ]

    page = preview(console, PRICES, "\n".join(rows))

    assert states(page) == [
        (2, "unchanged", ""),
        (3, "refused", "A price is never changed: give the new one a later instant."),
        (4, "new", ""),
        (5, "refused", "effective_from: Prices take effect at once or later, never before."),
        (6, "refused", "plan: there is no nobody."),
    ]


def test_list_prices_keep_what_the_file_does_not_name(console: Client, profile: ModelProfile) -> None:
    page = preview(console, LIST_PRICES, "profile,output_per_mtok\nacme/acme-large,5\n")

    confirm(console, page)

    price = profile.prices.latest("effective_from")
    assert page.context["lines"][0].differences[0] == ("output_per_mtok", "4", "5")
    assert (price.input_per_mtok, price.output_per_mtok, price.source) == (Decimal(1), Decimal(5), "imported")
    assert price.units == {"per_1k_web_searches": "10"}
    assert price.tiers == [{"threshold": 200000, "input_per_mtok": "2"}]


def test_a_plan_that_would_lose_money_needs_a_word(console: Client, basic: Plan) -> None:
    FxRate.objects.create(base="USD", quote="DZD", rate=200, effective_from=LONG_AGO)
    Plan.objects.update(visibility="public", rounding="exact")
    PlanRouting.objects.create(plan=basic, strategy="score", models_allowed=["*"])
    page = preview(console, PLANS, "code,period_credits\nbasic,1800\n")

    refused = confirm(console, page)
    before = Plan.objects.get().period_credits
    confirm(console, page, accept_risk="on")

    assert page.context["warnings"] == ["Basic: A period earns 5.00 USD and may cost 10.00 USD: what its 1,800 credits cover."]
    assert list(refused.context["form"].errors) == ["accept_risk"]
    assert (before, Plan.objects.get().period_credits) == (Decimal(500), Decimal(1800))
    assert Event.objects.filter(kind="plan.risk_accepted").count() == 1


# --- There and back ---


@pytest.mark.parametrize("file_format", ["csv", "xlsx"])
@pytest.mark.parametrize(
    ("model", "address"), [("billing/plan", PLANS), ("billing/planprice", PRICES), ("routing/modelprice", LIST_PRICES)]
)
def test_what_the_console_exports_changes_nothing_when_it_is_imported(
    console: Client, basic: Plan, profile: ModelProfile, model: str, address: str, file_format: str
) -> None:
    Plan.objects.update(description="=HYPERLINK(1)", name="-20 % off", features=["rag", "+legal"])
    app, _, name = model.partition("/")
    exported = console.get(reverse("admin:table", args=[app, name, file_format]))
    content = exported.getvalue()

    page = preview(console, address, content, f"list.{file_format}")

    assert [(line.state, line.reason) for line in page.context["lines"]] == [("unchanged", "")]
    assert page.context["nothing"] is True


def test_an_exported_spreadsheet_is_changed_and_comes_back(console: Client, basic: Plan) -> None:
    exported = console.get(reverse("admin:table", args=["billing", "plan", "xlsx"]))
    book = load_workbook(BytesIO(exported.getvalue()))
    sheet = book.active
    column = [cell.value for cell in sheet[1]].index("daily_limit") + 1
    sheet.cell(row=2, column=column, value=12.5)
    buffer = BytesIO()
    book.save(buffer)

    confirm(console, preview(console, PLANS, buffer.getvalue(), "list.xlsx"))

    assert Plan.objects.get().daily_limit == Decimal("12.5")


# --- Odd files ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "The file is empty."),
        (b"\n\n,,\n", "The file is empty."),
        (b"code,name\n", "The file has no lines below the first."),
        (b"code,price\nbasic,5\n", "Unknown columns: price. Known are: code, family"),
        (b"name\nBasic\n", "The column code is missing."),
        (b"code,code\na,b\n", "The column code appears twice."),
        (b"code,,name\na,b,c\n", "A column has no name in the first line."),
        (b"code\nbasic,more\n", "Line 2 has more cells than the first line."),
        (b"code\n" + b"x" * 5001, "A cell of line 2 is too long."),
        (b"code\n" + b"a\n" * 2001, "A file has at most 2,000 lines."),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "This is neither a CSV file nor a spreadsheet (XLSX)."),
        (b"code\nb\xe9ta\n", "The file is not UTF-8"),
        (b"PK\x03\x04 not an archive", "The spreadsheet cannot be read (BadZipFile)."),
        (b'code,name\nbasic,"never closed\n', "The file is no CSV"),
    ],
)
def test_odd_files_are_refused_as_a_whole(console: Client, basic: Plan, content: bytes, said: str) -> None:
    page = preview(console, PLANS, content)

    assert error(page).startswith(said)
    assert ConsoleDraft.objects.count() == 0


def test_a_file_that_is_too_large_is_refused_unread(console: Client) -> None:
    page = preview(console, PLANS, b"code\n" + b"x" * LARGEST_FILE)

    assert error(page) == "A file has at most 2 MB."


def test_no_file_is_no_import(console: Client) -> None:
    assert error(console.post(PLANS, {})) == "Choose a file."


def test_an_archive_that_swells_is_refused_before_it_is_unpacked() -> None:
    import zipfile

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * (41 * 1024 * 1024))

    with pytest.raises(FileRefused, match="too large when it is unpacked"):
        table_read(buffer.getvalue(), name="bomb.xlsx")


@pytest.mark.parametrize(
    ("content", "credits"),
    [
        ("\ufeffcode;period_credits\r\nbasic;800\r\n".encode(), "800"),
        ("code\tperiod_credits\nbasic\t800\n".encode("utf-16"), "800"),
        ("code,period_credits\nbasic,٨٠٠٫٥\n".encode(), "800.5"),
        ("code,period_credits\nbasic,۱٬۸۰۰\n".encode(), "1800"),
        (spreadsheet(["Code", " period_credits "], ["basic", 800.1]), "800.1"),
    ],
    ids=["BOM and semicolons", "tabs and UTF-16", "Arabic digits", "Persian digits", "spreadsheet"],
)
def test_files_as_spreadsheets_write_them_are_read(console: Client, basic: Plan, content: bytes, credits: str) -> None:
    page = preview(console, PLANS, content)

    assert page.context["lines"][0].differences == [("period_credits", "500", credits)]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("basic,=1+1", "period_credits: a formula is not read; paste its value."),
        ("basic,'=1+1", "period_credits: “=1+1” is no number; write a point before decimals and nothing between thousands."),
        ('basic,"1,5"', "period_credits: “1,5” is no number; write a point before decimals and nothing between thousands."),
        ("basic,1e9", "period_credits: “1e9” is no number; write a point before decimals and nothing between thousands."),
        ("basic,NaN", "period_credits: “NaN” is no number; write a point before decimals and nothing between thousands."),
        ("basic,", "period_credits: a number is missing."),
        (",5", "code is missing."),
        ("not a code,5", "code: Enter a valid “slug”"),
    ],
)
def test_odd_cells_are_refused_by_line(console: Client, basic: Plan, cells: str, said: str) -> None:
    page = preview(console, PLANS, f"code,period_credits\n{cells}\n")

    [(number, state, reason)] = states(page)
    assert (number, state) == (2, "refused")
    assert reason.startswith(said)


def test_a_formula_of_a_spreadsheet_is_refused(console: Client, basic: Plan) -> None:
    page = preview(console, PLANS, spreadsheet(["code", "period_credits"], ["basic", "=1+1"]), "list.xlsx")

    assert states(page) == [(2, "refused", "period_credits: a formula is not read; paste its value.")]


def test_lines_about_the_same_are_refused(console: Client, basic: Plan) -> None:
    page = preview(console, PLANS, "code,period_credits\nbasic,800\nBASIC,900\n")

    assert states(page) == [(2, "changed", ""), (3, "refused", "Line 2 is about the same.")]


def test_cells_are_shown_as_text(console: Client, basic: Plan) -> None:
    page = preview(console, PLANS, "code,name\nbasic,<script>alert(1)</script>\n").content.decode()

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "style=" not in page


# --- Who may ---


@pytest.mark.parametrize(("role", "expected"), [(FINANCE, (403, 200, 403)), (SUPPORT, (403, 403, 403))])
def test_a_role_imports_what_it_may_write(db: None, role: str, expected: tuple[int, ...]) -> None:
    client = Client()
    user = User.objects.create_user(f"{role}@example.com".lower(), PASSWORD, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client.force_login(user)

    assert tuple(client.get(address).status_code for address in (PLANS, PRICES, LIST_PRICES)) == expected
