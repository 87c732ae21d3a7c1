"""Spans of requests, selects, rewards and rounds, sent to a receiver of OpenTelemetry (OTLP/HTTP).

Off unless the setting `otlp_endpoint` names one: `active` is None then, nothing is imported and
nothing is measured. A thread sends what has ended, in batches; a receiver that is slow or gone
costs spans, never a request. Stages of a select come from the times that its metrics are made of.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bandexa_core import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Attributes = Mapping[str, Any]
SEND_TIMEOUT_S = 5.0
SERVICE = "bandexa"


class Spans:
    """Makes spans.

    Args:
        provider: Where they go.

    Attributes:
        no_parent: The parent of a span that begins a trace of its own.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE, __version__)
        self._context, self._trace = context, trace
        self.no_parent = context.Context()
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Span]:
        """Make the span of a request; its parent is that of its headers, where they name one."""
        carrier = {
            name.decode("ascii"): value.decode("latin-1")
            for name, value in headers
            if name in (b"traceparent", b"tracestate")
        }
        parent = self._propagator.extract(carrier) if carrier else None
        span = self._tracer.start_span("request", parent, kind=self._trace.SpanKind.SERVER)
        token = self._context.attach(self._trace.set_span_in_context(span))
        try:
            yield span
        finally:
            self._context.detach(token)
            span.end()

    def trace_id(self, span: Span) -> str:
        """Return the id of a span's trace."""
        return self._trace.format_trace_id(span.get_span_context().trace_id)

    def served(self, span: Span, method: str, route: str, status: int) -> None:
        """Say what a request was, and how it was answered."""
        span.update_name(f"{method} {route}")
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
            }
        )
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)

    def current(self) -> Context:
        """Return what names the current span, to be the parent of later ones."""
        return self._context.get_current()

    def ended(
        self,
        name: str,
        stages: Mapping[str, float],
        attributes: Attributes,
        *,
        parent: Context | None = None,
        error: str | None = None,
    ) -> None:
        """Make a span of work that has ended just now, with a child for each of its stages.

        Args:
            name: What it is.
            stages: Seconds of each stage, one after the other; the last one has ended now.
            attributes: What is known of it.
            parent: See `current`; None: the current span.
            error: Why it failed; None: it did not.
        """
        end = time.time_ns()
        lengths = {stage: round(seconds * 1e9) for stage, seconds in stages.items()}
        start = end - sum(lengths.values())
        span = self._tracer.start_span(name, parent, attributes=dict(attributes), start_time=start)
        if error is not None:
            span.set_status(self._trace.StatusCode.ERROR, error)
        if span.is_recording():
            inside = self._trace.set_span_in_context(span)
            for stage, length in lengths.items():
                child = self._tracer.start_span(stage, inside, start_time=start)
                start += length
                child.end(start)
        span.end(end)

    def close(self) -> None:
        """Send what is left; not for the event loop."""
        self._provider.shutdown()


active: Spans | None = None


@contextmanager
def sending(endpoint: str | None, ratio: float) -> Iterator[None]:
    """Have spans made and sent until the exit; without an endpoint nothing is done.

    Args:
        endpoint: Address of the receiver, without `/v1/traces`.
        ratio: The share of requests that are traced, of those whose caller does not say.
    """
    global active
    if endpoint is None:
        yield
        return
    spans = Spans(_provider(endpoint, ratio))
    active = spans
    try:
        yield
    finally:
        active = None
        spans.close()


def require() -> None:
    """Check that what spans need is installed.

    Raises:
        ValueError: It is not; says what to install.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"otlp_endpoint: traces need OpenTelemetry: pip install 'bandexa[otel]' ({error})"
        ) from error


def _provider(endpoint: str, ratio: float) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE}))
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
    )
    address = f"{endpoint.rstrip('/')}/v1/traces"
    exporter = OTLPSpanExporter(endpoint=address, timeout=SEND_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
