"""Optional reports of errors to Sentry: what was logged as an error, with where in the code it happened, and nothing else.

Sentry's own integrations stay out: they would bring bodies, headers, local variables and queries along.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from django.conf import settings

from . import request_id
from .logs import redact

if TYPE_CHECKING:
    from sentry_sdk.transport import Transport

_KEPT = frozenset({"event_id", "timestamp", "level", "logger", "platform", "release", "environment", "sdk", "type"})
_FRAME = ("filename", "function", "module", "lineno", "in_app")


def error_reports_start(*, transport: "type[Transport] | Transport | None" = None) -> None:
    """Report logged errors from now on, if `SENTRY_DSN` is set; without it nothing of Sentry is imported.

    Where its package is missing nothing is reported: a system check says so.
    """
    if not settings.SENTRY_DSN or find_spec("sentry_sdk") is None:
        return
    import sentry_sdk
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration

    sentry_sdk.init(
        dsn=settings.SENTRY_DSN,
        release=settings.VERSION,
        environment=settings.ENVIRONMENT,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            AtexitIntegration(callback=lambda pending, timeout: None),
            DedupeIntegration(),
            ExcepthookIntegration(),
            LoggingIntegration(level=None, sentry_logs_level=None),
        ],
        include_local_variables=False,
        include_source_context=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        server_name="",
        transport=transport,
        before_send=lambda event, hint: _scrubbed(event),  # type: ignore[arg-type, return-value, unused-ignore]
    )


def _scrubbed(event: Any) -> dict[str, Any]:
    """Kind, message and place of an error, secrets left out; everything not named here goes."""
    kept = {name: value for name, value in event.items() if name in _KEPT}
    kept["tags"] = {"request_id": request_id.current()}
    entry = event.get("logentry")
    if entry:
        kept["logentry"] = {"message": redact(str(entry.get("formatted") or entry.get("message") or ""))}
    values = (event.get("exception") or {}).get("values") or []
    if values:
        kept["exception"] = {"values": [_error(value) for value in values]}
    return kept


def _error(value: dict[str, Any]) -> dict[str, Any]:
    frames = (value.get("stacktrace") or {}).get("frames") or []
    return {
        "type": value.get("type"),
        "module": value.get("module"),
        "value": redact(str(value.get("value") or "")),
        "stacktrace": {"frames": [{name: frame[name] for name in _FRAME if name in frame} for frame in frames]},
    }
