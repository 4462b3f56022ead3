"""Loading the whole catalogue: idempotent, safe side by side, and loud about bad files."""

import json
import shutil
import threading
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from billing.plans.catalog import PLANS_FILE, CatalogError, CatalogReport
from billing.plans.models import CatalogRecord, Plan
from routing.catalog import ROUTING_FOLDER, catalog_load
from routing.models import AiModel, Budget, ModelPrice, ModelProfile, PlanRouting, Provider, model_price_at

TOTAL = 366
# What the command loads on top of it.
ALERT_RULES = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of routing/data to change."""
    return Path(shutil.copytree(ROUTING_FOLDER, tmp_path / "data"))


def replace(path: Path, old: str, new: str) -> None:
    """A release changes one file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.django_db
def test_second_load_writes_nothing_and_asks_little() -> None:
    first = catalog_load()

    with CaptureQueriesContext(connection) as queries:
        second = catalog_load()

    assert (len(first.created), first.updated, first.kept, first.deleted, first.unchanged) == (TOTAL, {}, {}, [], 0)
    assert second == CatalogReport(unchanged=TOTAL)
    assert [query["sql"].split()[0] for query in queries] == ["SAVEPOINT", *["SELECT"] * 17, "RELEASE"]
    assert CatalogRecord.objects.count() == TOTAL


@pytest.mark.django_db
def test_first_load_needs_few_queries() -> None:
    with CaptureQueriesContext(connection) as queries:
        catalog_load()

    assert len(queries) <= 60


@pytest.mark.django_db
def test_operators_edits_of_providers_profiles_routing_and_budget_are_kept(folder: Path) -> None:
    catalog_load()
    Provider.objects.filter(slug="groq").update(base_url="https://proxy.example.com/v1")
    ModelProfile.objects.filter(slug="openai/gpt-6-astra").update(enabled=False, cost_factor=Decimal("0.8"))
    PlanRouting.objects.filter(plan__code="student").update(split={"groq": 50, "openrouter": 50})
    Budget.objects.update(daily_limit_usd=Decimal(75))
    replace(folder / "plan_routing.toml", "groq = 85, openrouter = 15", "groq = 80, openrouter = 20")

    report = catalog_load(routing_folder=folder)

    assert report.kept == {
        "provider groq": ["base_url"],
        "profile openai/gpt-6-astra": ["cost_factor", "enabled"],
        "plan_routing student": ["split"],
        "budget *": ["daily_limit_usd"],
    }
    assert report.updated == {}
    assert Provider.objects.get(slug="groq").base_url == "https://proxy.example.com/v1"
    assert ModelProfile.objects.get(slug="openai/gpt-6-astra").enabled is False
    assert PlanRouting.objects.get(plan__code="student").split == {"groq": 50, "openrouter": 50}
    assert Budget.objects.get().daily_limit_usd == Decimal(75)


@pytest.mark.django_db
def test_a_changed_setting_moves_the_default_budget(settings: pytest.FixtureRequest) -> None:
    catalog_load()
    settings.DEFAULT_DAILY_BUDGET_USD = "80.5"  # type: ignore[attr-defined]

    report = catalog_load()

    assert report.updated == {"budget *": ["daily_limit_usd"]}
    assert Budget.objects.get().daily_limit_usd == Decimal("80.5")


@pytest.mark.django_db
def test_a_deleted_model_and_its_profile_stay_deleted_and_so_does_what_a_later_release_adds_to_it(folder: Path) -> None:
    catalog_load()
    ModelProfile.objects.get(slug="elevenlabs/music_v1").delete()
    AiModel.objects.get(name="music_v1").delete()
    replace(
        folder / "models.toml",
        'profiles = [{ provider = "elevenlabs", upstream = "music_v1" }]',
        'profiles = [{ provider = "elevenlabs", upstream = "music_v1" }, { provider = "stability", upstream = "m" }]',
    )

    report = catalog_load(routing_folder=folder)

    assert report.deleted == ["model music_v1", "profile elevenlabs/music_v1", "profile stability/music_v1"]
    assert not AiModel.objects.filter(name="music_v1").exists()
    assert not ModelProfile.objects.filter(upstream_model="m").exists()


@pytest.mark.django_db
def test_a_profile_that_moves_to_another_model_follows_unless_an_operator_moved_it(folder: Path) -> None:
    catalog_load()
    other = AiModel.objects.create(name="mine")
    ModelProfile.objects.filter(slug="cohere/command-r7b-12-2024").update(model=other)

    report = catalog_load()

    assert report.kept == {"profile cohere/command-r7b-12-2024": ["model"]}
    assert ModelProfile.objects.get(slug="cohere/command-r7b-12-2024").model == other


@pytest.mark.django_db
def test_a_new_shipped_price_appends_for_the_paid_and_the_free_profile(folder: Path) -> None:
    catalog_load()
    path = folder / "model_prices.json"
    data = json.loads(path.read_text())
    data["prices"]["groq/llama-3.3-70b"].append(
        {"from": "2027-03-01T00:00:00Z", "source": "Groq", "input_per_mtok": "0.6", "output_per_mtok": "0.8"}
    )
    path.write_text(json.dumps(data))
    paid = ModelProfile.objects.get(slug="groq/llama-3.3-70b")
    own = ModelPrice.objects.create(profile=paid, effective_from=datetime(2026, 12, 1, tzinfo=UTC), source="contract")

    report = catalog_load(routing_folder=folder)

    assert report.created == [
        "model_price groq/llama-3.3-70b 2027-03-01T00:00:00Z",
        "model_price groq/llama-3.3-70b:free 2027-03-01T00:00:00Z",
    ]
    assert model_price_at(paid, datetime(2027, 2, 28, tzinfo=UTC)) == own
    assert model_price_at(paid, datetime(2027, 3, 1, tzinfo=UTC)).input_per_mtok == Decimal("0.6")
    assert model_price_at(paid, datetime(2026, 11, 30, tzinfo=UTC)).input_per_mtok == Decimal("0.59")


@pytest.mark.django_db
def test_the_command_reports_and_its_dry_run_writes_nothing() -> None:
    output = StringIO()

    call_command("load_catalog", "--dry-run", stdout=output)

    assert output.getvalue() == (
        f"Catalogue (dry run, nothing written): {TOTAL + ALERT_RULES} created, 0 updated, 0 unchanged, "
        "0 kept as edited, 0 left deleted\n"
    )
    assert not Plan.objects.exists()
    assert not Provider.objects.exists()
    assert not CatalogRecord.objects.exists()


@pytest.mark.django_db
def test_the_command_lists_what_it_kept() -> None:
    call_command("load_catalog", stdout=StringIO())
    Plan.objects.filter(code="pro").update(daily_limit=500)
    output = StringIO()

    call_command("load_catalog", stdout=output)

    assert output.getvalue() == (
        "kept as edited plan pro: daily_limit\n"
        f"Catalogue: 0 created, 0 updated, {TOTAL + ALERT_RULES - 1} unchanged, 1 kept as edited, 0 left deleted\n"
    )


@pytest.mark.django_db
def test_the_command_fails_on_a_bad_setting(settings: pytest.FixtureRequest) -> None:
    settings.DEFAULT_DAILY_BUDGET_USD = "fifty"  # type: ignore[attr-defined]

    with pytest.raises(CommandError, match="setting DEFAULT_DAILY_BUDGET_USD: 'fifty' is not a decimal number"):
        call_command("load_catalog")

    assert not Plan.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("file", "good", "bad", "message"),
    [
        ("providers.toml", '"groq"', '"grok"', "providers.toml: provider 'grok': has no preset"),
        (
            "models.toml",
            '{ provider = "openai", upstream = "gpt-6-astra"',
            '{ provider = "opnai", upstream = "gpt-6-astra"',
            "models.toml: model 'gpt-6-astra': unknown provider 'opnai'",
        ),
        (
            "models.toml",
            'name = "gpt-6-astra"\n',
            'name = "gpt-6-astra"\naliases = ["gpt-6-luna"]\n',
            "models.toml: model 'gpt-6-luna': 'gpt-6-luna' already means model 'gpt-6-astra'",
        ),
        ("model_prices.json", '"10"', '"ten"', "model_prices.json: openai/gpt-6-astra: 'ten' is not a decimal number"),
        ("model_prices.json", '"10"', '"-10"', "model_prices.json: openai/gpt-6-astra: input_per_mtok: -10 is negative"),
        (
            "model_prices.json",
            '"output_per_mtok"',
            '"ouput_per_mtok"',
            "model_prices.json: openai/gpt-6-astra: unknown ouput_per_mtok",
        ),
        (
            "model_prices.json",
            '"openai/gpt-6-astra"',
            '"openai/gpt-6"',
            "model_prices.json: no profile is called 'openai/gpt-6'",
        ),
        (
            "model_prices.json",
            '{\n  "about"',
            '"about"',
            "model_prices.json: Extra data: line 1 column 8 (char 7)",
        ),
        (
            "plan_routing.toml",
            'image = "stable-image-core"',
            'image = "tts-1"',
            "plan_routing.toml: plan 'free': 'tts-1' is no model for 'image'",
        ),
        (
            "plan_routing.toml",
            "[plan.pro]",
            "[plan.prof]",
            "plan_routing.toml: plan 'pro' is either not a plan or has no routing",
        ),
        (
            "plan_routing.toml",
            "{ groq = 85,",
            "{ grok = 85,",
            "plan_routing.toml: plan 'student': unknown provider 'grok'",
        ),
        (
            "plan_routing.toml",
            '[plan.credits-starter]\ncost_allowance_usd = "price / 1.2"',
            '[plan.credits-starter]\ncost_allowance_usd = "price * 0.8"',
            "plan_routing.toml: plan 'credits-starter': 'price * 0.8' is not a decimal number",
        ),
        (
            "plan_routing.toml",
            'google = "gemini-2.5-flash"',
            'google = "grok-4.3"',
            "plan_routing.toml: plan 'free': 'google' does not serve 'grok-4.3'",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_entry_and_nothing_is_written(
    folder: Path, file: str, good: str, bad: str, message: str
) -> None:
    replace(folder / file, good, bad)

    with pytest.raises(CatalogError) as caught:
        catalog_load(routing_folder=folder)

    assert str(caught.value) == message
    assert not Plan.objects.exists()
    assert not CatalogRecord.objects.exists()


@pytest.mark.django_db
def test_an_allowance_needs_an_exchange_rate(tmp_path: Path) -> None:
    plans_file = tmp_path / "plans.toml"
    plans_file.write_text(PLANS_FILE.read_text().replace('quote = "INR"', 'quote = "EUR"'))

    with pytest.raises(CatalogError, match=r"plans\.toml: no exchange rate from USD to INR"):
        catalog_load(plans_file=plans_file)


@pytest.mark.django_db(transaction=True)
def test_two_loads_at_once_create_everything_once() -> None:
    barrier = threading.Barrier(2)
    reports: list[CatalogReport] = []

    def load() -> None:
        barrier.wait()
        reports.append(catalog_load())
        connections.close_all()

    threads = [threading.Thread(target=load) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join(timeout=30) for thread in threads]

    assert sorted((len(report.created), report.unchanged) for report in reports) == [(0, TOTAL), (TOTAL, 0)]
    assert CatalogRecord.objects.count() == TOTAL
