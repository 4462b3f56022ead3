"""Log lines: as text or JSON, each with the id of its request and its task, and without secrets.

Prompts never get into a log because nothing logs them, nor providers' own words, which may quote them. Secrets are left out
where lines are written as well: what stands in the settings, and what looks like a credential.
"""

import json
import logging
import re
from datetime import UTC, datetime
from functools import cache
from typing import Any

from celery._state import get_current_task
from django.conf import settings

from . import request_id

_SECRET_SETTINGS = (
    "SECRET_KEY",
    "FIELD_ENCRYPTION_KEYS",
    "JWT_SIGNING_KEY",
    "METRICS_TOKEN",
    "RAPIDAPI_PROXY_SECRETS",
    "CHARGILY_SECRET_KEY",
    "CHARGILY_EARLIER_SECRET_KEYS",
    "STRIPE_SECRET_KEY",
    "STRIPE_WEBHOOK_SECRETS",
    "PAYPAL_CLIENT_SECRET",
    "RAZORPAY_KEY_SECRET",
    "RAZORPAY_WEBHOOK_SECRETS",
    "PAYU_MERCHANT_KEY",
    "PAYU_SALTS",
    "PAYU_WEBHOOK_TOKENS",
    "EMAIL_HOST_PASSWORD",
    "SENTRY_DSN",
)
# Shorter ones would take ordinary words out of every line.
_SHORTEST_SECRET = 8
_HIDDEN = "***"
# What looks like a key of ours or of a provider's, a token, a Fernet token, or a password inside an address.
_SHAPES = (
    r"\b(?:sk|pk|rk|gsk|xai|whsec|iaf)[-_][\w-]{12,}",
    r"\bAIza[\w-]{10,}",
    r"\beyJ[\w-]+\.[\w-]+\.[\w-]*",
    r"\bgAAAA[\w=-]{20,}",
    r"(?<=Bearer )[^\s'\"]+",
    r"(?<=://)[^\s/@]*:[^\s/@]+(?=@)",
)
# PostgreSQL names the values of the row it refuses.
_ROW_VALUES = re.compile(r"DETAIL:.*?(?=\n(?:CONTEXT|HINT|SQLSTATE):|\n\n(?:The above|During)|\Z)", re.DOTALL)


@cache
def _secrets() -> re.Pattern[str]:
    values = [settings.DATABASES["default"].get("PASSWORD")]
    for name in _SECRET_SETTINGS:
        value = getattr(settings, name, None)
        values.extend(value if isinstance(value, list | tuple) else [value])
    literal = [re.escape(str(value)) for value in values if value and len(str(value)) >= _SHORTEST_SECRET]
    return re.compile("|".join([*sorted(literal, key=len, reverse=True), *_SHAPES]))


def redact(text: str) -> str:
    """`text` without the secrets of the settings, what looks like a credential, and the values of rows that were refused."""
    text = _secrets().sub(_HIDDEN, text)
    return _ROW_VALUES.sub("DETAIL: left out", text) if "DETAIL:" in text else text


class ContextFilter(logging.Filter):
    """Adds `request_id`, and `task` and `task_id` inside of a task, to log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.current()
        task = get_current_task()
        running = task is not None and task.request.id is not None
        record.task = task.name if running else ""
        record.task_id = task.request.id if running else ""
        return True


class LineFormatter(logging.Formatter):
    """A line of text for people, a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id, pid; task, task_id and error where there are any.

    Nothing else of a record is written, so that an `extra` of a library cannot bring along what it likes.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            "request_id": getattr(record, "request_id", "-"),
            "pid": record.process,
        }
        line.update({name: value for name in ("task", "task_id") if (value := getattr(record, name, ""))})
        if record.exc_info:
            line["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)
