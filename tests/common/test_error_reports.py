"""Optional reports to Sentry: what was logged as an error and where, nothing that anybody sent."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from django.test import override_settings
from sentry_sdk.transport import Transport

from iafactory.common import request_id
from iafactory.common.error_reports import error_reports_start

logger = logging.getLogger("tests.error_reports")


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.sent += [item.payload.json for item in envelope.items if item.type == "event"]


@pytest.fixture
def sentry() -> Iterator[Kept]:
    kept = Kept()
    with override_settings(SENTRY_DSN="https://0123456789abcdef@sentry.example/1"):
        error_reports_start(transport=kept)
        yield kept
        sentry_sdk.init()


def fail(prompt: str) -> None:
    body = {"messages": [prompt]}
    logger.info("a line before: %s", body)
    raise ValueError("no such key: sk-1234567890abcdefg")


def test_an_error_is_told_with_its_place_and_without_what_was_sent(sentry: Kept) -> None:
    request_id.begin("01a1-request")
    sentry_sdk.set_user({"email": "somebody@example.com"})
    try:
        fail("the-marked-prompt")
    except ValueError:
        logger.exception("call %s broke", "01a1")
    request_id.begin("-")

    [event] = sentry.sent
    [error] = event["exception"]["values"]
    assert event["logentry"] == {"message": "call 01a1 broke"}
    assert event["tags"] == {"request_id": "01a1-request"}
    assert (error["type"], error["value"]) == ("ValueError", "no such key: ***")
    assert error["stacktrace"]["frames"][-1]["function"] == "fail"
    told = json.dumps(event)
    assert [word for word in ("marked-prompt", "somebody", "1234567890", "a line before", "messages") if word in told] == []


def test_warnings_are_not_reported(sentry: Kept) -> None:
    logger.warning("slow")

    assert sentry.sent == []
