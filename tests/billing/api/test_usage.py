"""`GET /api/billing/usage`: filters, pages, tables, and nothing of the operator's."""

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.http import StreamingHttpResponse
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext

from billing.accounts.models import Account, ApiKey
from billing.ledger import usage_api

from .conftest import call_make, code, key_client, session_client

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books")]

NOON = datetime(2026, 10, 15, 12, tzinfo=UTC)
# What only the operator knows of the calls that `call_make` makes.
SECRETS = ("0.0029", "cost_factor", '"cost_usd"', "credits_lost", "loss", "secret-profile", "attempts")


def ids(response: Any) -> list[str]:
    assert response.status_code == 200
    return [row["request_id"] for row in response.json()["results"]]


def table(response: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(b"".join(response.streaming_content).decode().splitlines()))


def test_a_row_in_full(amina: Account) -> None:
    call_id = call_make(amina, at=NOON)

    body = key_client(amina).get("/api/billing/usage").json()

    assert body == {
        "results": [
            {
                "request_id": str(call_id),
                "started_at": "2026-10-15T12:00:00Z",
                "finished_at": "2026-10-15T12:00:02Z",
                "endpoint": "/v1/chat/completions",
                "end": "complete",
                "error_code": None,
                "requested_model": "auto",
                "model": "gpt-4o",
                "provider": "openai",
                "plan": "payg",
                "api_key": None,
                "streamed": False,
                "fallback": False,
                "input_tokens": 1000,
                "cache_read_tokens": 200,
                "cache_write_tokens": 0,
                "output_tokens": 500,
                "reasoning_tokens": 100,
                "units": None,
                "estimated": False,
                "credits": 1.305,
                "quota_units": 0,
                "latency_ms": None,
                "first_byte_ms": None,
            }
        ],
        "next": None,
        "next_cursor": None,
    }


def test_only_ones_own(amina: Account, boris: Account) -> None:
    mine, theirs = call_make(amina), call_make(boris)

    assert ids(key_client(amina).get("/api/billing/usage")) == [str(mine)]
    assert ids(session_client(boris).get("/api/billing/usage")) == [str(theirs)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"model": "llama"}, [1]),
        ({"provider": "groq"}, [1]),
        ({"end": "client_gone"}, [2]),
        ({"endpoint": "/v1/chat/completions"}, [2, 1, 0]),
        ({"endpoint": "/v1/embeddings"}, []),
        ({"min_credits": "2"}, [2, 1]),
        ({"min_credits": "2.000001"}, [2]),
        ({"min_credits": "0"}, [2, 1, 0]),
        ({"from": "2026-10-15T13:00:00Z"}, [2, 1]),
        ({"from": "2026-10-15T13:00:00.000001Z"}, [2]),
        ({"to": "2026-10-15T13:00:00Z"}, [0]),
        ({"from": "2026-10-15T14:00:00+01:00", "to": "2026-10-15T14:00:00"}, []),
        # Algiers is an hour ahead of UTC: the third call belongs to its next day.
        ({"to": "2026-10-15"}, [1, 0]),
        ({"from": "2026-10-16"}, [2]),
        ({"from": "2026-10-16", "to": "2026-10-16"}, [2]),
    ],
)
def test_filters(amina: Account, query: dict[str, str], found: list[int]) -> None:
    calls = [
        call_make(amina, 1, at=NOON),
        call_make(amina, 2, at=NOON + timedelta(hours=1), model="llama", provider="groq"),
        call_make(amina, 3, at=NOON + timedelta(hours=11), end="client_gone"),
    ]

    response = key_client(amina).get("/api/billing/usage", query)

    assert ids(response) == [str(calls[number]) for number in found]


def test_the_key_filter(amina: Account, boris: Account) -> None:
    client, other = key_client(amina), key_client(boris)
    key, foreign = ApiKey.objects.get(account=amina), ApiKey.objects.get(account=boris)
    call_make(amina)
    by_key = call_make(amina, api_key_id=key.pk)

    assert ids(client.get("/api/billing/usage", {"api_key": str(key.pk)})) == [str(by_key)]
    assert code(client.get("/api/billing/usage", {"api_key": str(foreign.pk)})) == (404, "not_found")
    assert code(client.get("/api/billing/usage", {"api_key": "nonsense"})) == (404, "not_found")
    assert ids(other.get("/api/billing/usage", {"api_key": str(foreign.pk)})) == []


def test_pages_go_on_where_the_last_one_ended(amina: Account) -> None:
    # Four of the five began at the same instant: the id decides.
    calls = [call_make(amina, 1, at=NOON) for _ in range(4)] + [call_make(amina, 1, at=NOON - timedelta(days=40))]
    newest_first = [str(call) for call in sorted(calls[:4], reverse=True)] + [str(calls[4])]
    client = key_client(amina)

    first = client.get("/api/billing/usage", {"page_size": 2, "model": "gpt-4o"})
    second = client.get(first.json()["next"])
    third = client.get("/api/billing/usage", {"page_size": 2, "cursor": second.json()["next_cursor"]})

    assert ids(first) + ids(second) + ids(third) == newest_first
    assert (third.json()["next"], third.json()["next_cursor"]) == (None, None)
    assert "model=gpt-4o" in first.json()["next"]


def test_a_page_counts_nothing_and_reads_no_figures_of_the_operator(amina: Account) -> None:
    [call_make(amina, 1, at=NOON) for _ in range(3)]
    client = key_client(amina)

    with CaptureQueriesContext(connection) as queries:
        client.get("/api/billing/usage", {"page_size": 2})

    reading = [query["sql"] for query in queries if "billing_usagerecord" in query["sql"]]
    assert len(reading) == 1
    assert ("COUNT" in reading[0], '"cost_usd"' in reading[0], '"credits_lost"' in reading[0]) == (False, False, False)


@pytest.mark.parametrize("path", ["", "?format=csv", "/{id}"])
def test_nothing_of_the_operators(amina: Account, path: str) -> None:
    call_id = call_make(amina)

    response = key_client(amina).get(f"/api/billing/usage{path.format(id=call_id)}")

    text = b"".join(response.streaming_content if response.streaming else [response.content]).decode()
    assert str(call_id) in text
    assert [secret for secret in SECRETS if secret in text] == []


GARBAGE = [
    {"from": "yesterday"},
    {"from": "2026-02-30"},
    {"from": "2026-13-01T00:00:00Z"},
    {"from": "0001-01-01"},
    {"to": "9999-12-31"},
    {"to": "9999-12-31T23:59:59-14:00"},
    {"from": "2026-10-15\x00"},
    {"model": "a\x00b"},
    {"model": "x" * 201},
    {"end": "happily"},
    {"endpoint": "\x00"},
    {"api_key": "\x00"},
    {"min_credits": "NaN"},
    {"min_credits": "-1"},
    {"min_credits": "9" * 400},
    {"page_size": "0"},
    {"page_size": "201"},
    {"page_size": "9" * 5000},
    {"page_size": "all"},
    {"cursor": "nonsense"},
    {"cursor": "20261015T120000.000000-xyz"},
    {"cursor": "\x00"},
    {"cursor": "x" * 201},
]


@pytest.mark.parametrize("query", GARBAGE, ids=lambda query: repr(query)[:60])
@pytest.mark.parametrize("form", ["json", "csv"])
def test_garbage_is_refused_in_json(amina: Account, query: dict[str, str], form: str) -> None:
    response = key_client(amina).get("/api/billing/usage", {**query, "format": form})

    assert code(response) == (400, "invalid_request")
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("ask", [{"data": {"format": "csv"}}, {"headers": {"accept": "text/csv"}}], ids=["format", "accept"])
def test_a_table(amina: Account, ask: dict[str, Any]) -> None:
    older, newer = call_make(amina, at=NOON), call_make(amina, "0.000001", at=NOON + timedelta(hours=1))

    response = key_client(amina).get("/api/billing/usage", **ask)

    rows = table(response)
    assert (response.headers["content-type"], response.headers["content-disposition"]) == (
        "text/csv; charset=utf-8",
        'attachment; filename="usage.csv"',
    )
    assert [(row["request_id"], row["credits"]) for row in rows] == [(str(newer), "0.000001"), (str(older), "1.305")]
    assert (rows[1]["started_at"], rows[1]["streamed"], rows[1]["error_code"]) == ("2026-10-15T12:00:00Z", "false", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_no_cell_is_a_formula(amina: Account, start: str) -> None:
    call_make(amina, requested_model=f'{start}HYPERLINK("https://example.com","x")')

    [row] = table(key_client(amina).get("/api/billing/usage", {"format": "csv"}))

    assert row["requested_model"] == f'\'{start}HYPERLINK("https://example.com","x")'


def test_a_long_table_is_read_in_parts(amina: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_api, "CSV_ROWS_AT_ONCE", 2)
    calls = [call_make(amina, 1, at=NOON) for _ in range(5)]

    response = key_client(amina).get("/api/billing/usage", {"format": "csv"})
    parts = list(response.streaming_content)

    assert [part.count(b"\r\n") for part in parts] == [3, 2, 1]
    assert [line[:36] for line in b"".join(parts).decode().splitlines()[1:]] == [
        str(call) for call in sorted(calls, reverse=True)
    ]


@pytest.mark.django_db(transaction=True)
def test_under_asgi_the_table_is_streamed_in_parts_too(amina: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_api, "CSV_ROWS_AT_ONCE", 2)
    [call_make(amina, 1, at=NOON) for _ in range(3)]
    authorization = key_client(amina)._credentials["HTTP_AUTHORIZATION"]

    async def parts() -> list[bytes]:
        response = await AsyncClient().get("/api/billing/usage?format=csv", headers={"authorization": authorization})
        assert isinstance(response, StreamingHttpResponse)
        assert response.is_async
        return [part async for part in response]

    assert [part.count(b"\r\n") for part in async_to_sync(parts)()] == [3, 1]


def test_a_table_of_nothing(amina: Account) -> None:
    response = key_client(amina).get("/api/billing/usage", {"format": "csv"})

    assert b"".join(response.streaming_content).decode().strip() == ",".join(usage_api.CSV_COLUMNS)


def test_an_unknown_format(amina: Account) -> None:
    assert key_client(amina).get("/api/billing/usage", {"format": "xml"}).status_code == 404
    assert key_client(amina).get("/api/billing/usage", headers={"accept": "image/png"}).status_code == 406


def test_amounts_are_exact_numbers(amina: Account) -> None:
    call_make(amina, Decimal("0.000001"))

    response = key_client(amina).get("/api/billing/usage")

    assert b'"credits":0.000001' in response.content
