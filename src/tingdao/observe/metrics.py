"""What Prometheus reads. Labels take few values: routes, models, error codes, and the names of keys."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

import tingdao

WAITS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Seconds that somebody waits: from nothing to given up."""
REQUESTS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
FACTORS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class Metrics:
    """All metrics of one service, in a registry of its own so that tests can build several.

    What is only looked at, such as the models, is added to `registry` by whoever knows it.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.info = self._gauge("tingdao_info", "The version that runs; always 1.", ["version"])
        self.info.labels(tingdao.__version__).set(1)

        self.requests = self._counter("tingdao_requests", "Requests by route and status.", ["route", "status"])
        self.refusals = self._counter("tingdao_refusals", "Refused requests by error code.", ["code"])
        self.request_seconds = self._histogram("tingdao_request_seconds", "Wall clock per request.", "route", REQUESTS)
        self.in_flight = self._gauge("tingdao_in_flight", "Transcriptions in work or waiting.")

        self.key_requests = self._counter("tingdao_key_requests", "Requests by the name of their key.", ["key"])
        self.key_refusals = self._counter("tingdao_key_refusals", "Refused requests by the name of their key.", ["key"])
        self.key_audio_seconds = self._counter(
            "tingdao_key_audio_seconds", "Seconds of audio worked on, by key.", ["key"]
        )

        self.audio_seconds = self._counter("tingdao_audio_seconds", "Seconds of audio transcribed.", ["model"])
        self.real_time_factor = self._histogram(
            "tingdao_real_time_factor", "Seconds of work per second of audio, per request.", "model", FACTORS
        )
        self.first_text_seconds = self._histogram(
            "tingdao_first_text_seconds", "Seconds until the first words are there.", "model", WAITS
        )
        self.queue_seconds = self._histogram(
            "tingdao_queue_seconds",
            "Seconds that a request only waited: for a decoder, its model, a turn.",
            "model",
            WAITS,
        )
        self.decode_seconds = self._histogram(
            "tingdao_decode_seconds", "Seconds of decoding, per request.", "model", WAITS
        )
        self.clip_seconds = {
            "recognise": self._histogram(
                "tingdao_recognise_seconds", "Seconds that the model took for a clip.", "model", WAITS
            ),
            "align": self._histogram(
                "tingdao_align_seconds", "Seconds that the aligner took for a clip of this model.", "model", WAITS
            ),
        }
        self.batch_size = self._histogram(
            "tingdao_batch_size", "Clips in one batch, as each clip saw it on average.", "model", ROWS
        )

    def render(self) -> bytes:
        """The text format that Prometheus reads."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, labels: list[str]) -> Counter:
        return Counter(name, what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(name, what, labels or [], registry=self.registry)

    def _histogram(self, name: str, what: str, label: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, what, [label], buckets=buckets, registry=self.registry)
