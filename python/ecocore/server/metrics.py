"""GET /metrics: what the engines and the server have done, in Prometheus' text format.

Takes counts that others keep anyway and reads them when asked; what is counted for each request or exchange is
a few additions. Names are vLLM's behind the prefix `ecocore_` where the meaning is the same.
"""

import math
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ecocore.regions.remote import RemoteRegion
from ecocore.server.billing import Cashier
from ecocore.server.rate_limit import RateLimiter
from ecocore.server.wire import Outbox

PREFIX: Final = "ecocore_"
MODEL: Final = ("model_name",)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HTTP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

# name -> (key of the runtime's counts, what it is)
_GAUGES: Final = {
    "num_requests_running": ("running", "Sequences that are being computed."),
    "num_requests_waiting": ("waiting", "Sequences that wait for room in the batch."),
}
_COUNTERS: Final = {
    "prefix_cache_queries": ("prefix_queries", "Prompt tokens that were looked up in the prefix cache."),
    "prefix_cache_hits": ("prefix_hits", "Prompt tokens that were found in the prefix cache."),
    "num_preemptions": ("preemptions", "How often a sequence gave its memory to another."),
    "prompt_tokens": ("prompt_tokens", "Prompt tokens of the sequences that were admitted."),
    "generation_tokens": ("generation_tokens", "Tokens that were drawn."),
    "engine_restarts": ("restarts", "How often the engine's process was started again."),
}
_HISTOGRAMS: Final = {
    "time_to_first_token_seconds": "From the moment a request was understood to its first token, for each choice.",
    "inter_token_latency_seconds": "Between two tokens of a choice.",
    "e2e_request_latency_seconds": "From the moment a request was understood to its end.",
    "request_prompt_tokens": "Prompt tokens of a request that ended.",
    "request_generation_tokens": "Tokens drawn for a request that ended.",
}


class Metrics:
    """The endpoint, and what the server itself counts."""

    def __init__(self, outboxes: Iterable[Outbox], limiter: RateLimiter, cashier: Cashier | None = None) -> None:
        """`outboxes`: one for each model."""
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(tuple(outboxes)))
        self._registry.register(_Limits(limiter))
        if cashier is not None:
            self._registry.register(_Money(cashier))
        ProcessCollector(registry=self._registry)
        self._exchanges = Counter(
            f"{PREFIX}http_requests", "Answers of the server.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            f"{PREFIX}http_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ("method", "route"),
            buckets=_HTTP_SECONDS,
            registry=self._registry,
        )

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts one exchange. Paths that are no route and methods that are none of HTTP's share a label."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = str(getattr(scope.get("route"), "path", "other"))
        self._exchanges.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    async def answer(self, _request: Request) -> Response:
        """GET /metrics."""
        return Response(generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


class _Engines(Collector):
    """Reads the engines' counts when somebody asks. What regions of one model counted is added up."""

    def __init__(self, outboxes: Sequence[Outbox]) -> None:
        self._outboxes: dict[str, list[Outbox]] = {}
        for outbox in outboxes:
            self._outboxes.setdefault(outbox.region.model_id, []).append(outbox)

    def collect(self) -> Iterator[Metric]:
        counts = {model: _added(outbox.region.stats() for outbox in outboxes) for model, outboxes in self._outboxes.items()}
        for name, (key, what) in _GAUGES.items():
            gauge = GaugeMetricFamily(PREFIX + name, what, labels=MODEL)
            for model, stats in counts.items():
                gauge.add_metric([model], stats[key])
            yield gauge
        usage = GaugeMetricFamily(f"{PREFIX}kv_cache_usage_perc", "Used part of the key-value cache, 0 to 1.", labels=MODEL)
        for model, stats in counts.items():
            # A model that runs elsewhere alone has none here.
            if stats["total_blocks"]:
                usage.add_metric([model], _usage(stats))
        yield usage
        for name, (key, what) in _COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, what, labels=MODEL)
            for model, stats in counts.items():
                counter.add_metric([model], stats[key])
            yield counter
        yield from self._requests()
        yield from self._regions()

    def _requests(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            f"{PREFIX}request_success", "Choices that ended, by the reason.", labels=(*MODEL, "finished_reason")
        )
        families = {name: HistogramMetricFamily(PREFIX + name, what, labels=MODEL) for name, what in _HISTOGRAMS.items()}
        for model, outboxes in self._outboxes.items():
            for reason, count in _added(outbox.meter.ended() for outbox in outboxes).items():
                ended.add_metric([model, reason], count)
            for name, family in families.items():
                each = [outbox.meter.histograms()[name] for outbox in outboxes]
                counts = [
                    sum(observed) for observed in zip(*([count for _, count in buckets] for buckets, _ in each), strict=True)
                ]
                bounds = ["+Inf" if math.isinf(bound) else str(bound) for bound, _ in each[0][0]]
                family.add_metric([model], list(zip(bounds, counts, strict=True)), sum(total for _, total in each))
        yield ended
        yield from families.values()

    def _regions(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(f"{PREFIX}region_up", "Whether a region elsewhere answers.", labels=(*MODEL, "region"))
        failovers = CounterMetricFamily(f"{PREFIX}failovers", "Requests that went on to another region.", labels=MODEL)
        for model, outboxes in self._outboxes.items():
            failovers.add_metric([model], sum(outbox.failovers for outbox in outboxes))
            for region in (outbox.region for outbox in outboxes):
                if isinstance(region, RemoteRegion):
                    up.add_metric([model, region.name], region.is_alive)
        yield up
        yield failovers


class _Limits(Collector):
    """Reads what the limits of keys have refused when somebody asks."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    def collect(self) -> Iterator[Metric]:
        refused = CounterMetricFamily(
            f"{PREFIX}rate_limit_refusals", "Requests that were refused for a limit of their key.", labels=("limit",)
        )
        for limit, count in self._limiter.refused.items():
            refused.add_metric([limit], count)
        yield refused
        if (lost := self._limiter.shared_is_lost) is not None:
            what = "1 while Redis is lost and the limits of keys count in this process alone."
            yield GaugeMetricFamily(f"{PREFIX}rate_limit_redis_lost", what, value=int(lost))


class _Money(Collector):
    """Reads how the books stand when somebody asks."""

    def __init__(self, cashier: Cashier) -> None:
        self._cashier = cashier

    def collect(self) -> Iterator[Metric]:
        settled = "Answers whose use was written to the ledger, or to the spool while the database is away."
        yield CounterMetricFamily(f"{PREFIX}settlements", settled, value=self._cashier.settled)
        refused = CounterMetricFamily(f"{PREFIX}balance_refusals", "Requests that an account could not pay.")
        refused.add_metric([], self._cashier.refused)
        yield refused
        waiting = "Charges that wait in the spool, because the database is away."
        yield GaugeMetricFamily(f"{PREFIX}settlements_spooled", waiting, value=self._cashier.num_late)


def _usage(stats: Mapping[str, int]) -> float:
    """The used part of the blocks of that kind of layers which has least left: those with a window, or the others."""
    windowed = stats["windowed_free_blocks"], stats["windowed_total_blocks"]
    others = stats["free_blocks"] - windowed[0], stats["total_blocks"] - windowed[1]
    return max(1 - free / total for free, total in (windowed, others) if total)


def _added(counts: Iterable[Mapping[str, int]]) -> Counts[str]:
    added: Counts[str] = Counts()
    for one in counts:
        added.update(one)
    return added
