"""The tables of docs/architecture.md are what the code says."""

import ast
import re
import tomllib
from collections import defaultdict

import pytest
from celery.schedules import crontab
from django.conf import settings
from django.db import connection

from billing.ledger.models import UsageRecord
from routing import limits
from tests.docs.reading import APPS, PROJECT, calls_in, section, table_rows, text_of, texts_of

PAGE = "docs/architecture.md"


def codes_raised() -> dict[str, set[int]]:
    """Code to statuses, of every `ApiError` made in the code, directly or by what makes one from a code."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for callee, call in calls_in(*APPS):
        match callee, call.args:
            case "ApiError" | "super().__init__", [ast.Constant(value=int(status)), code, *_]:
                for text in texts_of(code):
                    found[text].add(status)
            case "_wrong", [_, _, code]:
                for text in texts_of(code):
                    found[text].add(400)
    for callee, call in calls_in("iafactory/common/errors.py"):
        assert callee != "_wrong", ast.unparse(call)
    table = re.search(r"^_DRF_CODES.*?^}", text_of("iafactory/common/errors.py"), re.M | re.S)
    assert table is not None
    for status, code in re.findall(r"\((\d{3}), \"(\w+)\"\)", table[0]):
        found[code].add(int(status))
    return found


def when(schedule: float | crontab) -> str:
    if isinstance(schedule, crontab):
        return f"{min(schedule.hour):02}:{min(schedule.minute):02} UTC"
    return f"{schedule:,.0f} s"


def test_every_error_code_is_in_the_table_with_its_statuses_and_no_other() -> None:
    documented = {
        code.strip("`"): {int(status) for status in statuses.split(", ")}
        for code, statuses, _ in table_rows(section(PAGE, "Errors"))
    }

    assert documented == codes_raised()


def test_the_error_table_is_sorted() -> None:
    codes = [row[0] for row in table_rows(section(PAGE, "Errors"))]

    assert codes == sorted(codes)


def test_the_import_order_is_that_of_the_contracts() -> None:
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = {contract["id"]: contract["layers"] for contract in contracts if "layers" in contract}
    apps = " -> ".join(layers["apps"][1:])
    packages = [layer for layer in layers["billing"][1:] if (PROJECT / "billing" / layer).is_dir()]

    text = section(PAGE, "Apps and packages")

    assert f"    {apps}\n" in text
    assert f"billing: {' -> '.join(packages)}\n" in text


def test_every_package_is_in_the_table() -> None:
    named = {row[0].strip("`/") for row in table_rows(section(PAGE, "Apps and packages"))}

    billing = {path.parent.relative_to(PROJECT).as_posix() for path in PROJECT.glob("billing/*/__init__.py")}
    billing -= {"billing/management", "billing/migrations"}

    assert billing <= named
    assert set(APPS) <= {name.partition("/")[0] for name in named}


def test_every_end_of_a_call_is_in_the_table() -> None:
    rows = table_rows(section(PAGE, "Life of a request"))

    assert {re.findall(r"`(\w+)`", row[0])[0] for row in rows} == set(UsageRecord.End.values)


def test_every_scope_of_a_call_is_in_the_table() -> None:
    names = {value for name, value in vars(limits).items() if name.isupper() and isinstance(value, str)}

    assert {row[0].strip("`") for row in table_rows(section(PAGE, "Limits"))} == names


def test_the_sql_functions_of_the_table_exist_with_their_verdicts() -> None:
    sql = text_of("billing/ledger/sql/0001_functions.sql")
    rows = [row for row in table_rows(section(PAGE, "Money")) if row[0].startswith("`ledger_")]

    functions = {name: f"CREATE FUNCTION {name}(" in sql for name in (row[0].strip("`") for row in rows)}
    verdicts = {verdict for row in rows for verdict in re.findall(r"`(\w+)`", row[2])}

    assert functions == dict.fromkeys(functions, True)
    assert {verdict for verdict in verdicts if f"'{verdict}'" not in sql} == set()


@pytest.mark.django_db
def test_every_announced_table_is_in_the_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT split_part(encode(tgargs, 'escape'), '\\000', 1), tgrelid::regclass::text FROM pg_trigger "
            "WHERE tgname = 'announce'"
        )
        announced = cursor.fetchall()

    text = section(PAGE, "Caches and announced changes")
    payloads = {re.findall(r"`(\w+)", row[1])[0] for row in table_rows(text)}
    words = {
        "billing_apikey": "API keys",
        "billing_account": "accounts",
        "billing_accountlimits": "account limits",
        "ratelimit_networkblock": "network blocks",
        "billing_subscription": "subscriptions",
        "billing_membership": "memberships",
        "billing_user": "users",
        "billing_plan": "plans",
        "billing_marketplaceplan": "marketplace plans",
        "routing_provider": "providers",
        "routing_providercredential": "credentials",
        "routing_aimodel": "models",
        "routing_modelprofile": "profiles",
        "routing_modelprofile_reserved_for": "whom they are reserved for",
        "routing_modelprice": "prices",
        "routing_planrouting": "plan routing",
        "routing_budget": "budgets",
        "routing_gatewaylimits": "gateway limits",
    }

    assert {payload for payload, _ in announced} == payloads
    assert {table for _, table in announced} == words.keys()
    assert [word for word in words.values() if word not in text] == []


def test_scheduled_tasks_of_the_operations_page_are_those_of_the_settings() -> None:
    rows = table_rows(section("docs/operations.md", "Scheduled work"))

    documented = {row[0].strip("`"): row[1] for row in rows}

    assert documented == {entry["task"]: when(entry["schedule"]) for entry in settings.CELERY_BEAT_SCHEDULE.values()}


def test_every_adr_is_numbered_without_gaps_and_has_its_three_parts() -> None:
    pages = sorted((PROJECT / "docs/adr").glob("*.md"))

    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4]}. ")
        assert [part for part in ("**Context.**", "**Decision.**", "**Consequences.**") if part not in text] == []
        assert len(text.split()) < 450
