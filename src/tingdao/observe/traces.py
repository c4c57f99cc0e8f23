"""Traces for OpenTelemetry, when the operator's environment says where they go (needs the extra `otel`).

    request ─┬─ queue
             ├─ decode
             ├─ recognise, align   each clip
             └─ …

The standard variables decide: without `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` nothing of
this is imported. A request that carries a `traceparent` (W3C Trace Context) becomes a part of that trace.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

    from tingdao.observe.request import Span

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
INSTALL = "pip install 'tingdao[otel]'"


def from_environment() -> Traces | None:
    """Traces as the standard variables say; None where they say nothing."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        # The variables are often set for a whole machine; that is no reason not to serve.
        log.warning("no traces", extra={"reason": f"{error.name} is not installed", "advice": f"Run: {INSTALL}"})
        return None
    resource = Resource.create({SERVICE_NAME: "tingdao"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


class Traces:
    """Begins the trace of each request."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("tingdao")
        self._propagator = TraceContextTextMapPropagator()

    def request(self, identity: str, method: str, path: str, headers: Mapping[bytes, bytes]) -> Span:
        """A request begins."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        carrier = {
            name: headers[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in headers
        }
        # Attributes are named as OpenTelemetry's conventions for HTTP name them, where they do.
        span = self._tracer.start_span(
            f"{method} {path}",
            self._propagator.extract(carrier, Context()),
            SpanKind.SERVER,
            {"http.request.method": method, "url.path": path, "tingdao.request_id": identity},
        )
        return _Span(self._tracer, span)

    def close(self) -> None:
        """Send what has not been sent; blocks for as long as that takes, at most for some seconds."""
        self._provider.shutdown()


class _Span:
    """One span, with its children begun by hand: stages end in other tasks than they begin in."""

    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self._tracer, self._span = tracer, span
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def child(self, name: str, attributes: dict[str, str | int | float]) -> Span:
        from opentelemetry.trace import set_span_in_context

        context: Context = set_span_in_context(self._span)
        named = {f"tingdao.{key}": value for key, value in attributes.items()}
        return _Span(self._tracer, self._tracer.start_span(name, context, attributes=named))

    def end(self, error: str | None, attributes: dict[str, str | int | float]) -> None:
        from opentelemetry.trace import StatusCode

        names = {"status": "http.response.status_code", "route": "http.route", "body_bytes": "http.request.body.size"}
        self._span.set_attributes({names.get(key, f"tingdao.{key}"): value for key, value in attributes.items()})
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
