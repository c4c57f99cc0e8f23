"""What the operator sees: logs, metrics, traces, and what is in work now.

    edge ── journal.open ─► Figures, in a context variable ◄── pipeline: with during("recognise"): …
         ── journal.close ─► one line of log · Prometheus · a span of OpenTelemetry

The pipeline says what it does; where that goes is decided here. Nothing is handed through signatures.
"""

from tingdao.observe.journal import Journal, Trouble
from tingdao.observe.logs import JsonFormatter, blanked, configure_logging
from tingdao.observe.metrics import Metrics
from tingdao.observe.request import Figures, during, figures, request_id

__all__ = [
    "Figures",
    "Journal",
    "JsonFormatter",
    "Metrics",
    "Trouble",
    "blanked",
    "configure_logging",
    "during",
    "figures",
    "request_id",
]
