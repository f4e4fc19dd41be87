"""Prometheus metrics under the stock server's names, kinds, labels and buckets.

Names and buckets are those of ``servables/tensorflow/util.cc``, ``batching/batching_session.cc``
and ``saved_model_warmup_util.cc`` of https://github.com/tensorflow/serving and
``cc/saved_model/loader.cc`` of TensorFlow. Latencies are in microseconds.
"""

from __future__ import annotations

import prometheus_client

DEFAULT_PATH = "/monitoring/prometheus/metrics"
_SERVING = ":tensorflow:serving:"
_BATCHING = f"{_SERVING}batching_session:"
_LOADER = ":tensorflow:cc:saved_model:"
_RUNTIME = "TF1"


def exponential(scale: float, growth: float, count: int) -> list[float]:
    """Computes ``count`` bucket limits, each ``growth`` times the limit before."""
    return [scale * growth**i for i in range(count)]


_LATENCY = exponential(10, 1.8, 33)
_QUEUING = exponential(100, 1.2, 52)
_SIZES = exponential(1, 2, 15)


class Metrics:
    """Counters and histograms of one server; safe from any thread."""

    def __init__(self):
        registry = self._registry = prometheus_client.CollectorRegistry()

        def counter(name, text, labels=()):
            return prometheus_client.Counter(name, text, labels, registry=registry)

        def histogram(name, text, labels, buckets):
            return prometheus_client.Histogram(
                name, text, labels, registry=registry, buckets=buckets
            )

        self._requests = counter(
            f"{_SERVING}request_count", "Requests by outcome.", ("model_name", "status")
        )
        self._request_latency = histogram(
            f"{_SERVING}request_latency",
            "Microseconds of a whole request that succeeded.",
            ("model_name", "API", "entrypoint"),
            _LATENCY,
        )
        self._runtime_latency = histogram(
            f"{_SERVING}runtime_latency",
            "Microseconds of the graph's run alone.",
            ("model_name", "API", "runtime"),
            _LATENCY,
        )
        self._warmup = histogram(
            f"{_SERVING}model_warmup_latency",
            "Microseconds of a version's warm-up.",
            ("model_path", "status"),
            _LATENCY,
        )
        self._loads = counter(
            f"{_LOADER}load_attempt_count",
            "Attempts to load a version.",
            ("model_path", "status"),
        )
        self._load_latency = counter(
            f"{_LOADER}load_latency", "Microseconds of loads that succeeded.", ("model_path",)
        )
        self._queuing = histogram(
            f"{_BATCHING}queuing_latency",
            "Microseconds that a request waited for its batch.",
            ("thread_pool_name",),
            _QUEUING,
        )
        self._input_size = histogram(
            f"{_BATCHING}input_batch_size", "Rows of a request.", ("thread_pool_name",), _SIZES
        )
        self._processed_size = histogram(
            f"{_BATCHING}processed_batch_size",
            "Rows of a batch that ran, padding included.",
            ("thread_pool_name",),
            _SIZES,
        )
        self._padding_size = histogram(
            f"{_BATCHING}padding_size",
            "Rows of a batch that were padding.",
            ("execution_batch_size", "thread_pool_name"),
            _SIZES,
        )
        self._runs = counter(f"{_BATCHING}wrapped_run_count", "Batches that ran.")

    def request(self, model: str, status: str) -> None:
        """Counts an inference request that ended."""
        self._requests.labels(model, status).inc()

    def request_latency(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Records the latency of a request that succeeded."""
        self._request_latency.labels(model, api, entrypoint).observe(seconds * 1e6)

    def runtime_latency(self, model: str, api: str, seconds: float) -> None:
        """Records the run time of a graph."""
        self._runtime_latency.labels(model, api, _RUNTIME).observe(seconds * 1e6)

    def load(self, path: str, succeeded: bool, seconds: float) -> None:
        """Counts an attempt to load a version; records how long it took if it succeeded."""
        self._loads.labels(path, "success" if succeeded else "fail").inc()
        if succeeded:
            self._load_latency.labels(path).inc(seconds * 1e6)

    def warmup(self, path: str, status: str, seconds: float) -> None:
        """Records the warm-up of a version, whether or not it succeeded."""
        self._warmup.labels(path, status).observe(seconds * 1e6)

    def queued(self, pool: str, rows: int, seconds: float) -> None:
        """Records a request of ``rows`` that waited in the queue for ``seconds``."""
        self._queuing.labels(pool).observe(seconds * 1e6)
        self._input_size.labels(pool).observe(rows)

    def batch(self, pool: str, rows: int, padding: int) -> None:
        """Records a batch of ``rows``, ``padding`` included, that is about to run."""
        self._processed_size.labels(pool).observe(rows)
        self._padding_size.labels(str(rows), pool).observe(padding)
        self._runs.inc()

    def page(self) -> str:
        """Renders the text that Prometheus reads.

        ``prometheus_client`` adds ``_total`` to a counter's name, and a sample ``_created``; the
        stock server does neither, and dashboards use its names.
        """
        counters = {metric.name for metric in self._registry.collect() if metric.type == "counter"}
        lines = []
        for line in prometheus_client.generate_latest(self._registry).decode().splitlines():
            words = line.split(" ")
            name = (words[2] if line.startswith("#") else words[0]).partition("{")[0]
            if name.endswith("_created"):
                continue
            if name.removesuffix("_total") in counters:
                line = line.replace(name, name.removesuffix("_total"), 1)
            lines.append(line)
        return "\n".join(lines) + "\n"
