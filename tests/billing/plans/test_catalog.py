"""Loading the catalogue never undoes what an operator did."""

import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from billing.plans.catalog import CatalogError, CatalogReport, canonical, catalog_writing, plans_read, plans_write
from billing.plans.models import CatalogRecord, CreditPack, FxRate, Plan, PlanPrice, ServicePrice

FILE = """
[[fx_rate]]
base = "USD"
quote = "DZD"
rate = "230"
from = 2026-01-01T00:00:00Z

[[plan]]
code = "gold"
family = "metals"
name = "Gold"
billing_mode = "credits"
period_credits = 100
daily_limit = 20
prices = [{ currency = "DZD", amount = "2000", from = 2026-01-01T00:00:00Z }]

[[credit_pack]]
code = "ten"
name = "Ten credits"
credits = "10"
amount = "0.10"

[[service_price]]
code = "rag"
name = "Document search"
credits = "1"
"""


def load(folder: Path, text: str = FILE, *, dry_run: bool = False) -> CatalogReport:
    """Load `text` as a release's plans file."""
    path = folder / "plans.toml"
    path.write_text(text)
    with catalog_writing(dry_run=dry_run) as writer:
        plans_write(writer, plans_read(path))
    return writer.report


@pytest.mark.django_db
def test_first_load_creates_everything_and_remembers_it(tmp_path: Path) -> None:
    report = load(tmp_path)

    assert report.created == [
        "plan gold",
        "plan_price gold DZD 2026-01-01T00:00:00Z",
        "credit_pack ten",
        "service_price rag",
        "fx_rate USD DZD 2026-01-01T00:00:00Z",
    ]
    assert Plan.objects.values_list("code", "name", "daily_limit", "visibility").get() == (
        "gold",
        "Gold",
        Decimal(20),
        "public",
    )
    assert PlanPrice.objects.values_list("plan__code", "currency", "amount", "effective_from", "tax_included").get() == (
        "gold",
        "DZD",
        Decimal(2000),
        datetime(2026, 1, 1, tzinfo=UTC),
        True,
    )
    assert CatalogRecord.objects.get(kind="credit_pack").fields == {
        "code": "ten",
        "name": "Ten credits",
        "credits": "10",
        "bonus_credits": "0",
        "currency": "USD",
        "amount": "0.1",
        "is_public": True,
        "sort_order": 100,
    }


@pytest.mark.django_db
def test_second_load_only_reads(tmp_path: Path) -> None:
    load(tmp_path)

    with CaptureQueriesContext(
        connection,
    ) as queries:
        report = load(tmp_path)

    assert report == CatalogReport(unchanged=5)
    assert [query["sql"].split()[0] for query in queries] == ["SAVEPOINT", *["SELECT"] * 7, "RELEASE"]


@pytest.mark.django_db
def test_a_shipped_change_reaches_what_nobody_edited(tmp_path: Path) -> None:
    load(tmp_path)
    before = Plan.objects.get().updated_at

    report = load(tmp_path, FILE.replace("daily_limit = 20", "daily_limit = 30").replace('"Gold"', '"Gold plan"'))

    assert report.updated == {"plan gold": ["daily_limit", "name"]}
    plan = Plan.objects.get()
    assert (plan.daily_limit, plan.name, plan.updated_at > before) == (Decimal(30), "Gold plan", True)


@pytest.mark.django_db
def test_an_operators_edit_stays_while_other_fields_follow(tmp_path: Path) -> None:
    load(tmp_path)
    Plan.objects.update(daily_limit=25)

    report = load(tmp_path, FILE.replace("daily_limit = 20", "daily_limit = 30").replace('"Gold"', '"Gold plan"'))

    assert (report.updated, report.kept) == ({"plan gold": ["name"]}, {"plan gold": ["daily_limit"]})
    assert Plan.objects.values_list("daily_limit", "name").get() == (Decimal(25), "Gold plan")


@pytest.mark.django_db
def test_an_operators_edit_stays_through_every_later_load(tmp_path: Path) -> None:
    load(tmp_path)
    Plan.objects.update(daily_limit=25)
    load(tmp_path, FILE.replace("daily_limit = 20", "daily_limit = 30"))

    report = load(tmp_path, FILE.replace("daily_limit = 20", "daily_limit = 40"))

    assert report.kept == {"plan gold": ["daily_limit"]}
    assert Plan.objects.get().daily_limit == Decimal(25)


@pytest.mark.django_db
def test_an_edit_taken_back_follows_the_catalogue_again(tmp_path: Path) -> None:
    load(tmp_path)
    Plan.objects.update(daily_limit=25)
    load(tmp_path, FILE.replace("daily_limit = 20", "daily_limit = 30"))
    Plan.objects.update(daily_limit=20)

    report = load(tmp_path, FILE.replace("daily_limit = 20", "daily_limit = 30"))

    assert report.updated == {"plan gold": ["daily_limit"]}
    assert Plan.objects.get().daily_limit == Decimal(30)


@pytest.mark.django_db
def test_a_field_no_longer_shipped_returns_to_its_default(tmp_path: Path) -> None:
    load(tmp_path)

    report = load(tmp_path, FILE.replace("daily_limit = 20\n", ""))

    assert report.updated == {"plan gold": ["daily_limit"]}
    assert Plan.objects.get().daily_limit is None


@pytest.mark.django_db
def test_a_field_unknown_at_the_last_load_keeps_an_operators_value(tmp_path: Path) -> None:
    load(tmp_path)
    record = CatalogRecord.objects.get(kind="plan")
    del record.fields["priority"], record.fields["trial_days"]
    record.save()
    Plan.objects.update(priority=7)

    report = load(tmp_path, FILE.replace("period_credits = 100", "period_credits = 100\npriority = 5\ntrial_days = 3"))

    assert (report.updated, report.kept) == ({"plan gold": ["trial_days"]}, {"plan gold": ["priority"]})
    assert Plan.objects.values_list("priority", "trial_days").get() == (7, 3)


@pytest.mark.django_db
def test_what_an_operator_deleted_is_not_created_again(tmp_path: Path) -> None:
    load(tmp_path)
    CreditPack.objects.all().delete()

    report = load(tmp_path, FILE.replace('amount = "0.10"', 'amount = "0.20"'))

    assert (report.deleted, report.unchanged) == (["credit_pack ten"], 4)
    assert not CreditPack.objects.exists()


@pytest.mark.django_db
def test_an_object_an_operator_made_first_stays_theirs(tmp_path: Path) -> None:
    ServicePrice.objects.create(code="rag", name="Search", credits=Decimal(9))
    load(tmp_path)

    report = load(tmp_path, FILE.replace('name = "Document search"', 'name = "Documents"'))

    assert report.kept == {"service_price rag": ["credits", "name"]}
    assert ServicePrice.objects.values_list("name", "credits").get() == ("Search", Decimal(9))


@pytest.mark.django_db
def test_a_new_shipped_price_is_a_new_row_beside_the_old_and_the_operators(tmp_path: Path) -> None:
    load(tmp_path)
    PlanPrice.objects.create(
        plan=Plan.objects.get(), currency="DZD", amount=Decimal(1800), effective_from=datetime(2026, 6, 1, tzinfo=UTC)
    )

    report = load(
        tmp_path,
        FILE.replace(
            "from = 2026-01-01T00:00:00Z }]",
            'from = 2026-01-01T00:00:00Z }, { currency = "DZD", amount = "2500", from = 2027-01-01T00:00:00Z }]',
        ),
    )

    assert report.created == ["plan_price gold DZD 2027-01-01T00:00:00Z"]
    assert list(PlanPrice.objects.order_by("effective_from").values_list("amount", flat=True)) == [
        Decimal(2000),
        Decimal(1800),
        Decimal(2500),
    ]


@pytest.mark.django_db
def test_a_shipped_price_that_was_edited_in_place_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    load(tmp_path)

    report = load(tmp_path, FILE.replace('amount = "2000"', 'amount = "2001"').replace('"230"', '"231"'))

    assert report.kept == {
        "plan_price gold DZD 2026-01-01T00:00:00Z": ["amount"],
        "fx_rate USD DZD 2026-01-01T00:00:00Z": ["rate"],
    }
    assert (PlanPrice.objects.get().amount, FxRate.objects.get().rate) == (Decimal(2000), Decimal(230))


@pytest.mark.django_db
def test_a_dry_run_reports_and_writes_nothing(tmp_path: Path) -> None:
    load(tmp_path)

    report = load(tmp_path, FILE.replace('"ten"', '"eleven"').replace('"Gold"', '"Gold plan"'), dry_run=True)

    assert (report.created, report.updated) == (["credit_pack eleven"], {"plan gold": ["name"]})
    assert (Plan.objects.get().name, CreditPack.objects.get().code) == ("Gold", "ten")
    assert CatalogRecord.objects.count() == 5
    assert CatalogRecord.objects.get(kind="plan").fields["name"] == "Gold"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ('base = "USD"', "base = ", "plans.toml: Invalid value (at line 3, column 8)"),
        ("[[credit_pack]]", "[[credit_packs]]", "plans.toml: unknown credit_packs"),
        ('code = "gold"\n', "", "plans.toml: plan 1: code is missing"),
        ('name = "Gold"\n', "", "plans.toml: plan 'gold': name: This field cannot be blank."),
        ("daily_limit = 20", "daily_limt = 20", "plans.toml: plan 'gold': unknown field 'daily_limt'"),
        ("daily_limit = 20", "daily_limit = -1", "plans.toml: plan 'gold': daily_limit: -1 is negative"),
        (
            "daily_limit = 20",
            "daily_limit = 1e-7",
            "plans.toml: plan 'gold': daily_limit: Ensure that there are no more than 6 decimal places.",
        ),
        ('"credits"', '"barter"', "plans.toml: plan 'gold': billing_mode: Value 'barter' is not a valid choice."),
        ('"2000"', '"cheap"', "plans.toml: plan 'gold': price DZD cheap: 'cheap' is not a decimal number"),
        (
            "from = 2026-01-01T00:00:00Z }",
            "from = 2026-01-01 }",
            "plans.toml: plan 'gold': price DZD 2000: datetime.date(2026, 1, 1) is not an instant with a time zone",
        ),
        (
            '[[service_price]]\ncode = "rag"\n',
            '[[service_price]]\ncode = "rag"\nname = "A"\ncredits = "1"\n[[service_price]]\ncode = "rag"\n',
            "plans.toml: service_price 'rag': appears twice",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_entry_and_nothing_is_written(tmp_path: Path, good: str, bad: str, message: str) -> None:
    assert good in FILE

    with pytest.raises(CatalogError) as caught:
        load(tmp_path, FILE.replace(good, bad))

    assert str(caught.value) == message
    assert not Plan.objects.exists()
    assert not CatalogRecord.objects.exists()


@pytest.mark.django_db
def test_what_only_the_database_refuses_is_a_catalogue_error_too(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="credit_pack: the database refuses an entry: .*creditpack_amounts"):
        load(tmp_path, FILE.replace('credits = "10"', 'credits = "0"'))

    assert not Plan.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_edit_saved_while_the_catalogue_loads_is_kept(tmp_path: Path) -> None:
    load(tmp_path)
    reports: list[CatalogReport] = []

    def release() -> None:
        reports.append(load(tmp_path, FILE.replace('"Gold"', '"Gold plan"')))
        connections.close_all()

    thread = threading.Thread(target=release)
    with transaction.atomic():
        Plan.objects.update(name="Operator's")
        thread.start()
        wait_for_lock()
    thread.join(timeout=30)

    assert reports[0].kept == {"plan gold": ["name"]}
    assert Plan.objects.get().name == "Operator's"


def wait_for_lock() -> None:
    """Until another connection waits for a row of ours."""
    deadline = time.monotonic() + 30
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
            time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


def test_equal_values_have_one_canonical_form() -> None:
    algiers = datetime.fromisoformat("2026-01-01T01:00:00+01:00")

    form = canonical({"a": [Decimal("1E+3"), Decimal("2.720000000"), Decimal("0E-9")], "b": algiers, "c": Plan.Rounding.WHOLE})

    assert form == {"a": ["1000", "2.72", "0"], "b": "2026-01-01T00:00:00Z", "c": "whole"}
