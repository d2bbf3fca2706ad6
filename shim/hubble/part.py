"""What a node makes of its flows beside showing them, put together and started.

options ─► redaction of decoders
        ─► FlowCounter ◄─ MetricsFollower ◄─ flow stores
        ─► Exports ◄─ answers of the observer
registry of its own ─► /metrics on hubble_metrics_address
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from axoneme.lib import httpserver
from axoneme.lib.tasks import TaskScope
from shim.flows.decode import FlowDecoder
from shim.flows.lanes import Source
from shim.flows.query import RecordDecoder
from shim.hubble.export.collect import ExportCollector
from shim.hubble.export.exporter import Ask
from shim.hubble.export.running import Exports
from shim.hubble.export.settings import MEGABYTE, ExportSettings, filters_of_json, mask_of, path_below
from shim.hubble.metrics.collect import HubbleCollector
from shim.hubble.metrics.counting import FlowCounter
from shim.hubble.metrics.follow import MetricsFollower
from shim.hubble.metrics.options import parse_metrics
from shim.hubble.options import HubbleOptions
from shim.hubble.redaction import RedactingDecoder, RedactionSettings

FIXED = "static"
"""Name of the export that the node's own options ask for."""


class HubblePart:
    """Metrics, exports and redaction of one node."""

    def __init__(self, options: HubbleOptions) -> None:
        """Raises InvalidArgument or Unsupported by the option's name."""
        self._options = options
        self._redaction = redaction_of(options)
        self._fixed = fixed_export(options)
        self.registry = CollectorRegistry()
        self.address: asyncio.Future[str] | None = None
        """Where metrics are served, once they are."""

    def shown(self, decoder: RecordDecoder) -> RecordDecoder:
        """A decoder of messages of layer 7 that hides what is to be hidden."""
        return RedactingDecoder(decoder, self._redaction) if self._redaction.enabled else decoder

    def start(
        self,
        scope: TaskScope,
        *,
        sources: Sequence[Source],
        names: FlowDecoder,
        ask: Ask,
        boot_clock_ns: Callable[[], int],
    ) -> None:
        """Start what the options ask for. Raises InvalidArgument or Unsupported for a wrong filter."""
        options = self._options
        if options.hubble_metrics:
            wanted = parse_metrics("hubble_metrics", options.hubble_metrics)
            counter = FlowCounter(wanted, options.hubble_metrics_max_series)
            follower = MetricsFollower(counter, sources, names, boot_clock_ns=boot_clock_ns)
            HubbleCollector(self.registry, counter.table, follower.lost)
            scope.start("flow metrics", follower.run())
        if self._fixed is not None or options.hubble_export_config:
            self._start_exports(scope, names, ask)
        if options.hubble_metrics or self._fixed is not None or options.hubble_export_config:
            self.address = asyncio.get_running_loop().create_future()
            scope.start("metrics of flows", self._serve(self.address))

    def _start_exports(self, scope: TaskScope, names: FlowDecoder, ask: Ask) -> None:
        options = self._options
        exports = Exports(
            ask,
            node_name=names.full_node_name,
            directory=options.hubble_export_directory,
            fixed=self._fixed,
        )
        exports.start(scope)
        ExportCollector(self.registry, exports)
        if options.hubble_export_config:
            scope.start("list of exports", exports.watch(scope, Path(options.hubble_export_config)))

    async def _serve(self, address: asyncio.Future[str]) -> None:
        async with httpserver.serving(self._options.hubble_metrics_address, self.registry) as bound:
            address.set_result(bound)
            await asyncio.Event().wait()


def redaction_of(options: HubbleOptions) -> RedactionSettings:
    """What is to be hidden."""
    return RedactionSettings(
        enabled=options.hubble_redact,
        http_url_query=options.hubble_redact_http_url_query,
        http_user_info=options.hubble_redact_http_user_info,
        http_headers_allow=frozenset(map(str.lower, options.hubble_redact_http_headers_allow)),
        http_headers_deny=frozenset(map(str.lower, options.hubble_redact_http_headers_deny)),
        kafka_api_key=options.hubble_redact_kafka_api_key,
    )


def fixed_export(options: HubbleOptions) -> ExportSettings | None:
    """The export of the node's own options. Raises InvalidArgument by the option's name."""
    if not options.hubble_export_file:
        return None
    return ExportSettings(
        name=FIXED,
        path=path_below("hubble_export_file", options.hubble_export_directory, options.hubble_export_file),
        include=filters_of_json("hubble_export_allowlist", options.hubble_export_allowlist),
        exclude=filters_of_json("hubble_export_denylist", options.hubble_export_denylist),
        field_mask=mask_of("hubble_export_field_mask", options.hubble_export_field_mask),
        max_bytes=options.hubble_export_max_size_mb * MEGABYTE,
        max_backups=options.hubble_export_max_backups,
        compress=options.hubble_export_compress,
    )
