"""Optional traces: spans below each other from a page to its task, without what people sent; nothing when they are off."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery import shared_task
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from iafactory.celery import app
from iafactory.common import tracing
from iafactory.common.request_id import RequestIdMiddleware
from tests.docs.reading import PROJECT

IMPORTED = """
import sys, django
django.setup()
import iafactory.asgi, iafactory.celery
from iafactory.common.tracing import span, tracing_start
tracing_start("web")
with span("call", model="m") as one, span("choose") as two:
    one.set(end="complete")
print(one is two, sorted({name.partition(".")[0] for name in sys.modules} & {"opentelemetry", "sentry_sdk"}))
"""


@shared_task(name="tests.traced")
def traced() -> None:
    """Does nothing, below a span."""
    with tracing.span("inside"):
        pass


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    with override_settings(TRACES_SHARE=1.0):
        tracing.tracing_start("web", exporter=exporter)
    yield exporter
    tracing.tracing_stop()


def finished(exporter: InMemorySpanExporter) -> dict[str, Any]:
    assert tracing._provider is not None
    tracing._provider.force_flush()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_process_that_traces_nothing_imports_nothing() -> None:
    ran = subprocess.run([sys.executable, "-c", IMPORTED], cwd=PROJECT, capture_output=True, text=True, check=False)

    # `redis` looks for OpenTelemetry's interface, which does nothing by itself.
    assert ran.stdout.strip() in ("True []", "True ['opentelemetry']"), ran.stderr


def test_steps_hang_below_their_call_and_a_failure_says_its_kind_alone(spans: InMemorySpanExporter) -> None:
    def serve() -> None:
        with tracing.span("call", endpoint="chat", plan=None) as call, tracing.span("serve"):
            call.set(end="complete")
            raise ValueError("the prompt was: hello")

    with pytest.raises(ValueError, match="prompt"):
        serve()

    seen = finished(spans)
    assert seen["serve"].parent.span_id == seen["call"].context.span_id
    assert seen["serve"].attributes == {"iafactory.request_id": "-", "iafactory.error": "ValueError"}
    assert seen["call"].attributes["iafactory.endpoint"] == "chat"
    assert "iafactory.plan" not in seen["call"].attributes
    assert [event for span in seen.values() for event in span.events] == []
    assert "hello" not in seen["call"].to_json() + seen["serve"].to_json()


def test_a_task_hangs_below_the_page_that_asked_for_it(spans: InMemorySpanExporter) -> None:
    headers: dict[str, Any] = {}

    def page(request: HttpRequest) -> HttpResponse:
        tracing.pass_on(headers)
        return HttpResponse()

    request = HttpRequest()
    request.method, request.resolver_match = "GET", None
    RequestIdMiddleware(page)(request)
    app.tasks["tests.traced"].apply(headers=headers)

    seen = finished(spans)
    task = seen["task tests.traced"]
    assert task.parent.span_id == seen["page"].context.span_id
    assert seen["inside"].parent.span_id == task.context.span_id
    assert seen["page"].attributes["iafactory.status"] == 200
