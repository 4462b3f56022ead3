"""Optional traces: spans of calls, pages and tasks, sent by OpenTelemetry to `TRACES_ENDPOINT`.

Without that setting nothing of OpenTelemetry is imported and a span is an object that does nothing. Spans carry names, ids and
figures, never bodies, headers, addresses, or the messages of errors.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from django.conf import settings

from . import request_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer


class _Nothing:
    """The span of a process that traces nothing."""

    def set(self, **attributes: Any) -> None:
        pass


class _Span(_Nothing):
    def __init__(self, span: Any) -> None:
        self._span = span

    def set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(f"iafactory.{name}", value)


_NOTHING: AbstractContextManager[_Nothing] = nullcontext(_Nothing())
_tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def tracing_start(process: str, *, exporter: "SpanExporter | None" = None) -> None:
    """Begin to trace as `process` (web, worker), if the settings ask for it. Call it after forking; `exporter` is for tests."""
    global _tracer, _provider
    if exporter is None and not settings.TRACES_ENDPOINT:
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=settings.TRACES_ENDPOINT)
    _provider = TracerProvider(
        resource=Resource.create({"service.name": f"iafactory-{process}", "service.version": settings.VERSION}),
        sampler=ParentBased(TraceIdRatioBased(settings.TRACES_SHARE)),
    )
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("iafactory")


def tracing_stop() -> None:
    """Send what waits and trace no more."""
    global _tracer, _provider
    if _provider is not None:
        _provider.shutdown()
    _tracer = _provider = None


def span(name: str, **attributes: str | int | float | None) -> AbstractContextManager[_Nothing]:
    """A span around a block, child of the one around it; `set` adds attributes to it."""
    return _NOTHING if _tracer is None else _recorded(_tracer, name, attributes)


@contextmanager
def _recorded(tracer: "Tracer", name: str, attributes: Mapping[str, Any], parent: Any = None) -> Iterator[_Span]:
    from opentelemetry.trace import StatusCode

    with tracer.start_as_current_span(name, context=parent, record_exception=False, set_status_on_exception=False) as recorded:
        ours = _Span(recorded)
        ours.set(request_id=request_id.current(), **attributes)
        try:
            yield ours
        except BaseException as error:
            # Its kind alone: messages may quote what somebody sent.
            ours.set(error=type(error).__name__)
            recorded.set_status(StatusCode.ERROR)
            raise


def pass_on(carrier: MutableMapping[str, Any]) -> None:
    """Put the running span into a task's headers, so that the task's own span hangs below it."""
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)


def continued(name: str, carrier: Mapping[str, Any], **attributes: str | int | None) -> AbstractContextManager[_Nothing]:
    """A span below the one that `pass_on` put into `carrier`."""
    if _tracer is None:
        return _NOTHING
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(carrier)
    return _recorded(_tracer, name, attributes, parent)
