"""DNS messages of a node: cost to take them in, to find them, and what they cost those who do not ask.

CPU seconds of this process, best of several rounds; run with `python -m tests.perf.flow_lookups`.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from axoneme.api.fqdn.v1 import fqdn_pb2
from axoneme.api.hubble.flow import flow_pb2
from shim.flows.lookups import CAPACITY, Lookups
from shim.flows.query import FlowQuery
from tests.perf.flows import Figure, batch, cpu_seconds
from tests.unit.shim.flows.lookupscene import answer, lookup
from tests.unit.shim.flows.scene import make_feed

BATCH = 1_000
PACKETS = 1 << 20


def reported(size: int) -> fqdn_pb2.WatchLookupsResponse:
    """A batch as it comes over the wire: queries and answers for many names, four addresses each."""
    message = fqdn_pb2.WatchLookupsResponse()
    for number in range(size):
        name = f"host-{number // 2 % 500}.service.example.com."
        at_ns = 2_000_000 + number * 1_000
        make = answer if number % 2 else lookup
        event = make(time_ns=at_ns, query=name, client_port=1024 + number % 60_000)
        if event.response:
            event.ips.extend([f"198.51.100.{number % 250}", f"203.0.113.{number % 250}", "192.0.2.9"])
        message.events.append(event)
    return fqdn_pb2.WatchLookupsResponse.FromString(message.SerializeToString())


def intake(lookups: Lookups) -> Figure:
    batches = [reported(BATCH) for _ in range(10)]

    def work() -> None:
        for one in batches:
            lookups.add(one.events, one.lost)

    return Figure("add one message", cpu_seconds(work) / (10 * BATCH) * 1e6, "us", "<= 20")


def queries(lookups: Lookups) -> list[Figure]:
    for _ in range(CAPACITY // BATCH + 1):
        lookups.add(reported(BATCH).events, 0)
    store = lookups.store
    figures = [Figure("reports of 64 Ki messages", store.report_bytes / 2**20, "MiB", "<= 32")]
    cases = {
        "protocol dns, newest 20": flow_pb2.FlowFilter(protocol=["dns"]),
        "dns query, no match": flow_pb2.FlowFilter(dns_query=["nobody"]),
        "dns query, all match, newest 20": flow_pb2.FlowFilter(dns_query=["example"]),
        "verdict, no match": flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED]),
    }
    for name, flow_filter in cases.items():

        def work(flow_filter: flow_pb2.FlowFilter = flow_filter) -> None:
            list(FlowQuery(store, lookups.decoder, [flow_filter], []).newest(0, store.seen, 20))

        figures.append(Figure(f"messages: {name}", cpu_seconds(work) * 1e3, "ms", "<= 50"))
    everything = FlowQuery(store, lookups.decoder, [], [])
    start = store.oldest
    seconds = cpu_seconds(lambda: list(islice(everything.flows(start, start + 2000), 2000)))
    figures.append(Figure("decode one message", seconds / 2000 * 1e6, "us", ""))
    return figures


def packets() -> list[Figure]:
    """What filters on names and messages cost in the store of packets."""
    feed, decoder, _ = make_feed(PACKETS)
    few, _, _ = make_feed(PACKETS)
    for start in range(0, PACKETS, 65_536):
        records = batch(65_536, start)
        feed.append(records)
        records["destination_ip"] = records["destination_ip"][np.arange(65_536) % 1_000]
        few.append(records)
    cases = {
        "protocol dns": flow_pb2.FlowFilter(protocol=["dns"]),
        "dns query": flow_pb2.FlowFilter(dns_query=["example"]),
        "type l7": flow_pb2.FlowFilter(event_type=[flow_pb2.EventTypeFilter(type=129)]),
        "fqdn of 1 Mi addresses": flow_pb2.FlowFilter(destination_fqdn=["www.example.com"]),
    }
    figures = []
    for name, flow_filter in cases.items():

        def work(flow_filter: flow_pb2.FlowFilter = flow_filter) -> None:
            list(FlowQuery(feed.store, decoder, [flow_filter], []).newest(0, feed.store.seen, 20))

        figures.append(Figure(f"1 Mi packets: {name}", cpu_seconds(work) * 1e3, "ms", ""))
    wanted = [flow_pb2.FlowFilter(destination_fqdn=["www.example.com"])]
    seconds = cpu_seconds(
        lambda: list(FlowQuery(few.store, decoder, wanted, []).newest(0, few.store.seen, 20))
    )
    figures.append(Figure("1 Mi packets: fqdn of 16,000 addresses", seconds * 1e3, "ms", ""))
    return figures


def main() -> None:
    _, decoder, clock = make_feed(64)
    lookups = Lookups(decoder, boot_clock_ns=clock)
    for figure in [intake(lookups), *queries(lookups), *packets()]:
        print(f"{figure.what:40} {figure.value:10.1f} {figure.unit:12} {figure.goal}")


if __name__ == "__main__":
    main()
