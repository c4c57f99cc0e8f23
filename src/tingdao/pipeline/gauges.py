"""What Prometheus is told of the service as it is at the moment of asking: models, queues, disk, GPUs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tingdao.engines import memory
from tingdao.engines.memory import Gpu
from tingdao.engines.registry import ModelState
from tingdao.engines.servers import Server

if TYPE_CHECKING:
    from tingdao.pipeline.service import Service

MODELS: tuple[tuple[str, str, Callable[[ModelState], float]], ...] = (
    ("ready", "Whether the model is loaded.", lambda model: model.state == "ready"),
    ("failed", "Whether the model could not be loaded.", lambda model: model.state == "failed"),
    ("loaded_at_seconds", "When it was loaded, in seconds of the epoch; 0 if not.", lambda model: model.since or 0),
    ("recordings", "Recordings in work with the model.", lambda model: model.recordings),
    ("calls", "Clips that the model works on.", lambda model: model.calls),
    ("waiting", "Clips that wait for the model.", lambda model: model.waiting),
)
SERVERS: tuple[tuple[str, str, Callable[[Server], float]], ...] = (
    ("up", "Whether the server takes calls.", lambda server: server.state == "up"),
    ("draining", "Whether an operator lets it have no calls.", lambda server: server.state == "draining"),
    ("calls", "Clips at work there, sent from here.", lambda server: server.calls),
    ("outstanding_seconds", "Audio at work there, sent from here.", lambda server: server.outstanding),
    ("pace", "Seconds that a second of audio takes, waiting included.", lambda server: server.pace or 0),
)
SERVER_TOTALS: tuple[tuple[str, str, Callable[[Server], float]], ...] = (
    ("audio_seconds", "Audio that the server answered.", lambda server: server.audio),
    ("failed_calls", "Calls that failed through its fault.", lambda server: server.failed),
    ("moved_calls", "Calls taken off it, since it went down or fell silent.", lambda server: server.moved),
)
GPUS: tuple[tuple[str, str, Callable[[Gpu], float]], ...] = (
    ("used_bytes", "Memory of the GPU that is taken, by whomever.", lambda gpu: gpu.used),
    ("reserved_bytes", "Memory of the GPU that this service holds.", lambda gpu: gpu.reserved),
    ("total_bytes", "Memory of the GPU.", lambda gpu: gpu.total),
)


class Gauges(Collector):
    """A collector for `Metrics.registry`. Read in the event loop of the service.

    folder: the state folder, on whose disk recordings are decoded.
    """

    def __init__(self, service: Service, folder: Path) -> None:
        self._service = service
        self._folder = folder

    def describe(self) -> list[Metric]:
        """Nothing ahead: what there is to collect is known when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All gauges as they are now."""
        service = self._service
        states = service.registry.states()
        for name, what, of_model in MODELS:
            yield _family(f"tingdao_model_{name}", what, "model", ((model.name, of_model(model)) for model in states))
        yield from self._servers(states)
        aligner = [(service.aligner.name, service.aligner.state)] if service.aligner else []
        for state in ("ready", "failed"):
            yield _family(
                f"tingdao_aligner_{state}",
                f"Whether the aligner is {state}.",
                "model",
                ((name, now == state) for name, now in aligner),
            )
        yield GaugeMetricFamily(
            "tingdao_unrecognised_seconds", "Audio in work that is still to be recognised.", value=service.load.seconds
        )
        yield GaugeMetricFamily(
            "tingdao_expected_wait_seconds",
            "How long a newcomer would wait for its first clip.",
            value=service.load.wait,
        )
        free = shutil.disk_usage(self._folder).free if self._folder.is_dir() else 0
        yield GaugeMetricFamily("tingdao_disk_free_bytes", "Free on the disk of the state folder.", value=free)
        gpus = memory.gpus()
        for name, what, of_gpu in GPUS:
            yield _family(f"tingdao_gpu_memory_{name}", what, "gpu", ((str(gpu.number), of_gpu(gpu)) for gpu in gpus))

    def _servers(self, states: list[ModelState]) -> Iterator[Metric]:
        # Without those that leave: one that was named again would be there twice.
        now = [
            ([model.name, server.name], server)
            for model in states
            for server in model.servers
            if server.state != "leaving"
        ]
        for kind, shown in ((GaugeMetricFamily, SERVERS), (CounterMetricFamily, SERVER_TOTALS)):
            for name, what, of_server in shown:
                values = ((labels, of_server(server)) for labels, server in now)
                yield _filled(kind(f"tingdao_server_{name}", what, labels=["model", "server"]), values)


def _family(name: str, what: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    return _filled(GaugeMetricFamily(name, what, labels=[label]), (([key], value) for key, value in values))


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    for labels, value in values:
        family.add_metric(labels, float(value))
    return family
