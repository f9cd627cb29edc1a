"""Sans-I/O. The metrics: what `wsraw status` knows, in the text formats of Prometheus.

Names, labels and help texts are in one table, from which docs/metrics.md is made, too. A metric
whose figures are missing, because the gateway does not answer, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from wsraw.link.records import HANDLER_BOUNDS

Data = dict[str, Any]
Value = tuple[tuple[str, ...], Any]
"""Label values, and a number or a Histogram."""

TURN_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Bounds of the turn histogram, in seconds: those of the gateway's loop, as a test checks."""


class Histogram(NamedTuple):
    """How many values were not larger than each bound, and the sum of all values."""

    bounds: tuple[float, ...]
    total: int
    seconds: float
    larger: Sequence[int]
    """For each bound, how many values were larger than it and not larger than the next one."""

    def buckets(self) -> list[tuple[str, int]]:
        """The buckets, cumulative as Prometheus expects them."""
        found, below = [], self.total - sum(self.larger)
        for bound, more in zip(self.bounds, self.larger, strict=True):
            found.append((repr(bound), below))
            below += more
        return [*found, ("+Inf", below)]


class Described(NamedTuple):
    """A metric: its name without the suffix of its kind, its labels, and where its values are."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[Data], Iterable[Value]]

    @property
    def shown(self) -> str:
        """The name under which queries find it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _gateway(*path: str) -> Callable[[Data], Iterable[Value]]:
    """A figure of the gateway."""

    def values(data: Data) -> Iterator[Value]:
        found = data["gateway"]
        for key in path:
            found = found[key]
            if found is None:
                return
        yield (), found

    return values


def _by_name(key: str) -> Callable[[Data], Iterable[Value]]:
    """Figures of the gateway, by name."""

    def values(data: Data) -> Iterator[Value]:
        for name, count in (data["gateway"][key] or {}).items():
            yield (name,), count

    return values


def _pools(data: Data) -> Iterator[Data]:
    """All pools, and their canaries by names of their own."""
    for pool in data["pools"]:
        yield pool
        if pool["canary"] is not None:
            yield pool["canary"]


def _of_pools(key: str) -> Callable[[Data], Iterable[Value]]:
    def values(data: Data) -> Iterator[Value]:
        for pool in _pools(data):
            if pool.get(key) is not None:
                yield (pool["name"],), pool[key]

    return values


def _of_workers(key: str) -> Callable[[Data], Iterable[Value]]:
    def values(data: Data) -> Iterator[Value]:
        for worker in (*data["workers"], *data["by_hand"]):
            if worker.get(key) is not None:
                name = str(worker.get("n") or worker.get("instance"))
                yield (worker["pool"] or "", name), worker[key]

    return values


def _totals(data: Data) -> list[Data]:
    return data["gateway"]["totals"] or []


def _place(totals: Data) -> tuple[str, str, str]:
    return totals["kind"], totals["pool"], totals["listener"]


def _connections(key: str) -> Callable[[Data], Iterable[Value]]:
    return lambda data: ((_place(each), each[key]) for each in _totals(data))


def _closed(data: Data) -> Iterator[Value]:
    for each in _totals(data):
        for cause, count in each["closed"].items():
            yield (cause, *_place(each)), count


def _responses(data: Data) -> Iterator[Value]:
    for each in _totals(data):
        for status, count in each["responses"].items():
            yield (status, each["pool"], each["listener"]), count


def _traffic(received: str, sent: str) -> Callable[[Data], Iterable[Value]]:
    def values(data: Data) -> Iterator[Value]:
        for each in _totals(data):
            yield ("in", *_place(each)), each[received]
            yield ("out", *_place(each)), each[sent]

    return values


def _restarts(data: Data) -> Iterator[Value]:
    for reason, count in data["gateway"]["restarts_by"].items():
        yield ("gateway", "", reason), count
    for pool in data["pools"]:
        for reason, count in pool["restarts"].items():
            yield ("worker", pool["name"], reason), count


def _handlers(data: Data) -> Iterator[tuple[tuple[str, ...], Data]]:
    """Pool and handler as label values, with the figures of that handler's calls."""
    for pool in _pools(data):
        for handler, figures in (pool["handlers"] or {}).items():
            yield (pool["name"], handler), figures


def _handler_times(data: Data) -> Iterator[Value]:
    for place, each in _handlers(data):
        yield place, Histogram(HANDLER_BOUNDS, each["calls"], each["seconds"], each["slower"])


def _canaries(data: Data) -> Iterator[Value]:
    for pool in data["pools"]:
        for outcome, count in pool["canaries"].items():
            yield (pool["name"], outcome), count


def _turns(data: Data) -> Iterator[Value]:
    loop = data["gateway"]["loop"]
    if loop is not None:
        yield (), Histogram(TURN_BOUNDS, loop["turns"], loop["seconds"], loop["long"])


def _of_cluster(key: str) -> Callable[[Data], Iterable[Value]]:
    def values(data: Data) -> Iterator[Value]:
        if data["gateway"]["cluster"]:
            yield (), data["gateway"]["cluster"][key]

    return values


def _cluster_state(data: Data) -> Iterator[Value]:
    for _, state in _of_cluster("state")(data):
        yield (), int(state == "connected")


def _cluster_nodes(data: Data) -> Iterator[Value]:
    for _, nodes in _of_cluster("nodes")(data):
        yield (), len(nodes)


def _cluster_counts(data: Data) -> Iterator[Value]:
    for _, counts in _of_cluster("counts")(data):
        for outcome, count in counts.items():
            yield (outcome,), count


_PLACE: Final = ("kind", "pool", "listener")
_WORKER: Final = ("pool", "worker")

METRICS: Final = (
    Described(
        "wsraw_gateway_up", "gauge", "1 if the gateway answers. If not, most metrics are missing.",
        (), lambda data: [((), int(data["gateway"]["answers"]))],
    ),
    Described(
        "wsraw_up_seconds", "gauge", "Seconds since the run was started.",
        (), lambda data: [((), data["age"])],
    ),
    Described(
        "wsraw_stopping", "gauge", "1 if the run is stopping.",
        (), lambda data: [((), int(data["phase"] != "running"))],
    ),
    Described(
        "wsraw_gateway_epoch", "gauge", "How many gateways there have been in this run folder.",
        (), _gateway("epoch"),
    ),
    # --- connections ---
    Described(
        "wsraw_connections", "gauge",
        "Open connections that handlers know of, or will soon. The listener is empty for "
        "connections that handlers have opened.",
        _PLACE, _connections("open"),
    ),
    Described(
        "wsraw_connections_started", "counter",
        "Connections that handlers have known of since the start of the gateway, open or not.",
        _PLACE, _connections("total"),
    ),
    Described(
        "wsraw_connections_accepted", "counter",
        "Connections accepted by each listener, port scans and refused clients included.",
        ("listener",), _by_name("accepted"),
    ),
    Described(
        "wsraw_connections_closed", "counter",
        "Ended connections by cause. The kind is unknown if they ended before it was known.",
        ("cause", *_PLACE), _closed,
    ),
    Described(
        "wsraw_connections_unannounced", "gauge",
        "Sockets of clients that handlers do not know of, yet or any more: handshakes, silent "
        "clients, clients that get their last bytes.",
        (), _gateway("unannounced"),
    ),
    Described("wsraw_sockets", "gauge", "Open sockets of clients.", (), _gateway("sockets")),
    Described(
        "wsraw_max_sockets", "gauge",
        "Sockets of clients that may be open: max_connections, or what the limit on open files "
        "allows; 0: no limit is known.",
        (), _gateway("max_connections"),
    ),
    Described(
        "wsraw_connections_paused", "gauge",
        "Connections that are not read from, because their handlers or readers are too slow.",
        (), _gateway("paused"),
    ),
    Described(
        "wsraw_connection_paused_seconds", "gauge",
        "Longest time, in seconds, for which a connection has not been read from.",
        (), _gateway("paused_longest"),
    ),
    Described(
        "wsraw_connections_waiting", "gauge", "Connections that wait for any worker of the pool.",
        ("pool",), _of_pools("waiting"),
    ),
    # --- traffic ---
    Described(
        "wsraw_messages", "counter",
        "Messages from clients (direction in) and to clients (out): one for each WebSocket frame "
        "with data, each read from a raw connection, each send of a handler, and each member that "
        "a published message goes to.",
        ("direction", *_PLACE), _traffic("received", "sent"),
    ),
    Described(
        "wsraw_traffic_bytes", "counter",
        "Bytes read from and written to connections, with what the WebSocket protocol adds, "
        "without what TLS adds.",
        ("direction", *_PLACE), _traffic("received_bytes", "sent_bytes"),
    ),
    Described(
        "wsraw_http_responses", "counter",
        "Responses to HTTP requests, by the class of their status: those of handlers, of files and "
        "of the gateway itself, which also refuses WebSocket handshakes. Those that succeed (101) "
        "are not among them.",
        ("status", "pool", "listener"), _responses,
    ),
    Described(
        "wsraw_messages_dropped", "counter",
        "Published messages that slow readers did not get (the setting overflow).",
        (), _gateway("dropped"),
    ),
    Described(
        "wsraw_commands_for_closed", "counter",
        "Commands of handlers for connections that were closed already. Some are normal.",
        (), _gateway("unknown_ids"),
    ),
    # --- events ---
    Described(
        "wsraw_events_handled", "counter", "Events whose handlers have returned.",
        ("pool",), _of_pools("acked"),
    ),
    Described(
        "wsraw_handler_seconds", "histogram",
        "How long calls of handlers take, including the time that they wait. Only workers that "
        "report it, as those in Python do, are counted.",
        ("pool", "handler"), _handler_times,
    ),
    Described(
        "wsraw_handler_exceptions", "counter",
        "Exceptions that handlers have raised, in workers that report them.",
        ("pool", "handler"),
        lambda data: ((place, each["exceptions"]) for place, each in _handlers(data)),
    ),
    Described(
        "wsraw_events_in_flight", "gauge", "Events that workers have and have not handled yet.",
        ("pool",), _of_pools("in_flight"),
    ),
    Described(
        "wsraw_events_parked", "gauge", "Events that wait at the gateway for a worker.",
        ("pool",), _of_pools("parked"),
    ),
    Described(
        "wsraw_event_in_flight_seconds", "gauge",
        "Seconds since the oldest event in flight was sent to its worker.",
        ("pool",), _of_pools("longest_in_flight"),
    ),
    Described(
        "wsraw_event_parked_seconds", "gauge",
        "Seconds for which the oldest parked event has waited, of the connections that are next.",
        ("pool",), _of_pools("longest_parked"),
    ),
    Described(
        "wsraw_events_redelivered", "counter",
        "Events that another worker gets because theirs has not finished them: handlers see "
        "delivery > 1.",
        ("pool",), _of_pools("redelivered"),
    ),
    Described(
        "wsraw_events_given_back", "counter",
        "Events at which new handlers on trial have failed, and which were given to old workers "
        "(`wsraw reload --canary --shield`).",
        ("pool",), _of_pools("given_back"),
    ),
    Described(
        "wsraw_canaries", "counter",
        "Trials of new handlers (`wsraw reload --canary`) by outcome: promoted; or rolled back for "
        "exceptions, closes, slow (handlers), died (a worker), not-ready (a "
        "worker did not load) or ended (by a command).",
        ("pool", "outcome"), _canaries,
    ),
    Described(
        "wsraw_canary", "gauge", "1 while new handlers of the pool are on trial.", ("pool",),
        lambda data: (((pool["name"],), int(pool["canary"] is not None)) for pool in data["pools"]),
    ),
    Described(
        "wsraw_dead_letters", "counter",
        "Events given up because they kill workers, since the start of the gateway.",
        ("pool",), _of_pools("dead_letters"),
    ),
    Described(
        "wsraw_dead_letters_kept", "gauge", "Dead letters in the run folder.",
        (), _gateway("dead_letters"),
    ),
    # --- workers ---
    Described(
        "wsraw_workers_ready", "gauge", "Workers that take events.", ("pool",), _of_pools("ready")
    ),
    Described(
        "wsraw_workers_wanted", "gauge", "Workers that the run keeps running.",
        ("pool",), _of_pools("workers_wanted"),
    ),
    Described(
        "wsraw_crash_loop", "gauge",
        "1 while workers of the pool die right after their start; empty pool: the gateway.",
        ("pool",),
        lambda data: [
            (("",), int(data["gateway"]["crash_loop"])),
            *(((pool["name"],), int(pool["crash_loop"])) for pool in data["pools"]),
        ],
    ),
    Described(
        "wsraw_restarts", "counter",
        "Processes that were replaced, by reason: hung (a handler, the start or an answer took too "
        "long), killed (it broke the rules), signal (it crashed), failed (exit code not 0), exited "
        "(exit code 0), reload, recycled (max_events, max_memory).",
        ("process", "pool", "reason"), _restarts,
    ),
    Described(
        "wsraw_worker_resident_memory_bytes", "gauge",
        "Resident memory of each worker. Its number is that of the log; a new process has another.",
        _WORKER, _of_workers("rss"),
    ),
    Described(
        "wsraw_worker_in_flight", "gauge", "Events that the worker has and has not handled yet.",
        _WORKER, _of_workers("in_flight"),
    ),
    Described(
        "wsraw_worker_window", "gauge", "Events that the worker may have at the same time.",
        _WORKER, _of_workers("window"),
    ),
    Described(
        "wsraw_worker_round_trip_seconds", "gauge",
        "Seconds from the gateway to the idle worker and back, with the handler; of the last event "
        "that found the worker idle.",
        _WORKER, _of_workers("round_trip"),
    ),
    # --- the gateway ---
    Described(
        "wsraw_gateway_resident_memory_bytes", "gauge", "Resident memory of the gateway.",
        (), _gateway("rss"),
    ),
    Described(
        "wsraw_memory_bytes", "gauge", "Bytes held for all connections together.",
        (), _gateway("bytes"),
    ),
    Described(
        "wsraw_memory_limit_bytes", "gauge", "The setting memory_limit.",
        (), _gateway("memory_limit"),
    ),
    Described(
        "wsraw_memory_crowded", "gauge",
        "1 while no clients are accepted because more than 80 % of memory_limit is held.",
        (), _gateway("crowded"),
    ),
    Described(
        "wsraw_limits_reached", "counter",
        "How often a limit was reached or a client refused, by the setting that is the reason.",
        ("limit",), _by_name("limits"),
    ),
    Described(
        "wsraw_loop_turn_seconds", "histogram",
        "How long the turns of the gateway's loop take, without waiting. A client waits for a turn "
        "at most twice.",
        (), _turns,
    ),
    Described(
        "wsraw_loop_lag_seconds", "gauge",
        "Seconds by which a timer of the gateway was late, at worst in the last 15 s.",
        (), _gateway("loop", "lag"),
    ),
    # --- several gateways ---
    Described(
        "wsraw_cluster_connected", "gauge",
        "1 if this gateway is connected to NATS, 0 if others do not hear it. Without the setting "
        "cluster there are no metrics of this name.",
        (), _cluster_state,
    ),
    Described(
        "wsraw_cluster_nodes", "gauge", "Other gateways of the cluster that are alive.",
        (), _cluster_nodes,
    ),
    Described(
        "wsraw_cluster_subscriptions", "gauge",
        "Groups and users with connections here, which are subscribed at NATS.",
        (), _of_cluster("subscriptions"),
    ),
    Described(
        "wsraw_cluster_messages", "counter",
        "Messages between this gateway and others, by what has become of them: sent; received; "
        "not_sent: NATS was away or too slow; too_large: above its max_payload; missed: they did "
        "not come, which the next one has shown; repeated: they came twice or too late, and were "
        "dropped; undelivered: the gateway was too slow for them; invalid: not understood.",
        ("outcome",), _cluster_counts,
    ),
    Described(
        "wsraw_certificate_not_after_timestamp_seconds", "gauge",
        "When the certificate that new clients get expires, in seconds since 1970. The label cert "
        "is its file.",
        ("listener", "cert"),
        lambda data: (
            ((each["listener"], each["cert"]), each["not_after"])
            for each in data["gateway"]["certificates"] or ()
        ),
    ),
    Described(
        "wsraw_tls_handshakes", "counter", "TLS handshakes by outcome.",
        ("outcome",),
        lambda data: [
            ((outcome,), data["gateway"]["tls"][outcome])
            for outcome in ("completed", "failed")
            if data["gateway"]["tls"]
        ],
    ),
)  # fmt: skip

_FAMILIES: Final[dict[str, Any]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def families(data: Data) -> Iterator[Metric]:
    """All metrics of these figures."""
    for metric in METRICS:
        family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
        for labels, value in metric.values(data):
            if isinstance(value, Histogram):
                family.add_metric(labels, value.buckets(), value.seconds)
            else:
                family.add_metric(labels, float(value))
        if family.samples:
            yield family


class _Collector:
    """The collector that a registry of prometheus_client asks for metrics."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def collect(self) -> Iterator[Metric]:
        return families(self._data)


def page(data: Data, accept: str) -> tuple[bytes, str]:
    """The answer to a scrape, and its content type: in the format that `accept` asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(data))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
