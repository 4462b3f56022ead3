"""Log lines as they are written: JSON or text, with what they belong to, without secrets."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest
from django.test import override_settings

from iafactory.common import logs, request_id
from iafactory.common.logs import ContextFilter, JsonFormatter, LineFormatter, redact


@pytest.fixture(autouse=True)
def secrets_read_anew() -> Iterator[None]:
    logs._secrets.cache_clear()
    yield
    logs._secrets.cache_clear()


def record_of(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("billing.ledger", logging.WARNING, __file__, 1, message, arguments, info)
    record.created = 1795180000.25
    ContextFilter().filter(record)
    return record


def raised() -> BaseException:
    try:
        raise ValueError("password of sk-1234567890abcdefg")
    except ValueError:
        error = sys.exc_info()[1]
    assert error is not None
    return error


def test_a_json_line_says_what_it_belongs_to_and_nothing_a_library_adds() -> None:
    request_id.begin("01a1-request")
    record = record_of("%d holds closed", 3)
    record.args_of_a_task = "secret"

    line = json.loads(JsonFormatter().format(record))
    request_id.begin("-")

    assert line == {
        "time": "2026-11-20T13:06:40.250Z",
        "level": "WARNING",
        "logger": "billing.ledger",
        "message": "3 holds closed",
        "request_id": "01a1-request",
        "pid": record.process,
    }


def test_an_error_stays_on_its_line_without_its_secret() -> None:
    written = JsonFormatter().format(record_of("it failed", error=raised()))

    error = json.loads(written)["error"]
    assert "\n" not in written
    assert error.endswith("ValueError: password of ***")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key iaf_0123456789abcdef refused", "key *** refused"),
        ("gsk_abcdefghijklmnop", "***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("postgres://user:word@db/x", "postgres://***@db/x"),  # pragma: allowlist secret
        ("eyJhbGciOi.eyJzdWIiOi.c2ln", "***"),
        (
            "violates\nDETAIL:  Failing row contains (a@example.com,\nb).\nCONTEXT:  x",
            "violates\nDETAIL: left out\nCONTEXT:  x",
        ),
        (
            "call 01a1f8fb-057a-734a-b63c-cb0a1faf9e74: groq/llama failed",
            "call 01a1f8fb-057a-734a-b63c-cb0a1faf9e74: groq/llama failed",
        ),
    ],
)
def test_what_looks_like_a_secret_is_left_out(text: str, expected: str) -> None:
    assert redact(text) == expected


@override_settings(PAYU_SALTS=["salt-of-ours"], METRICS_TOKEN="short")
def test_the_secrets_of_the_settings_are_left_out() -> None:
    assert redact("PayU said salt-of-ours, in short") == "PayU said ***, in short"


def test_text_for_people_leaves_them_out_too() -> None:
    formatter = LineFormatter("{levelname} [{request_id}] {message}", style="{")

    assert formatter.format(record_of("with %s", "sk-1234567890abcdefg")) == "WARNING [-] with ***"
