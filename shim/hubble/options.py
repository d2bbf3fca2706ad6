"""The options of Hubble's metrics, exports and redaction, as part of a node's configuration.

Loaded with the configuration, so it stays light: filters and field masks are checked when the flow side of
the node is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from axoneme.lib import config
from axoneme.lib.errors import InvalidArgument
from shim import options
from shim.hubble.metrics.options import parse_metrics

MOST_SERIES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class HubbleOptions:
    """What is made of the node's flows beside showing them; by default nothing."""

    hubble_metrics: tuple[str, ...] = config.option(
        (), "metrics of flows, as Cilium writes them", metavar="dns:query;ignoreAAAA,drop"
    )
    hubble_metrics_address: str = config.option(
        "127.0.0.1:9968", "host:port of /metrics for flows; served when there are metrics or exports of flows"
    )
    hubble_metrics_max_series: int = config.option(20_000, "series of flow metrics that are kept")
    hubble_export_directory: Path = config.option(
        Path("/var/log/axoneme"), "folder that all files of exported flows lie in or below"
    )
    hubble_export_file: str = config.option("", "file that flows are written to; empty: none")
    hubble_export_max_size_mb: int = config.option(10, "size at which it is put aside, in MB")
    hubble_export_max_backups: int = config.option(5, "files put aside that are kept")
    hubble_export_compress: bool = config.option(False, "compress files put aside")
    hubble_export_allowlist: str = config.option("", "FlowFilters in JSON, one of which a flow must satisfy")
    hubble_export_denylist: str = config.option("", "FlowFilters in JSON, none of which a flow may satisfy")
    hubble_export_field_mask: tuple[str, ...] = config.option((), "fields of a flow to write; empty: all")
    hubble_export_config: str = config.option(
        "", "YAML file with exports (flowLogs) that may change while the node runs"
    )
    hubble_redact: bool = config.option(False, "hide parts of messages of layer 7")
    hubble_redact_http_url_query: bool = config.option(False, "of those, queries of URLs")
    hubble_redact_http_user_info: bool = config.option(True, "of those, passwords of URLs")
    hubble_redact_http_headers_allow: tuple[str, ...] = config.option(
        (), "headers whose values are not hidden; all others are"
    )
    hubble_redact_http_headers_deny: tuple[str, ...] = config.option(
        (), "headers whose values are hidden; no others are"
    )
    hubble_redact_kafka_api_key: bool = config.option(False, "of those, API keys of Kafka")

    def check_hubble(self) -> None:
        """Raises InvalidArgument by the option's name."""
        parse_metrics("hubble_metrics", self.hubble_metrics)
        host, colon, port = self.hubble_metrics_address.rpartition(":")
        if not (host and colon and port.isdigit() and int(port) <= 65_535):
            raise InvalidArgument.of_field(
                "hubble_metrics_address", f"{self.hubble_metrics_address!r} is not host:port"
            )
        options.in_range("hubble_metrics_max_series", self.hubble_metrics_max_series, 1, MOST_SERIES)
        options.in_range("hubble_export_max_size_mb", self.hubble_export_max_size_mb, 1, 16_384)
        options.in_range("hubble_export_max_backups", self.hubble_export_max_backups, 0, 1_000)
        if self.hubble_redact_http_headers_allow and self.hubble_redact_http_headers_deny:
            raise InvalidArgument.of_field(
                "hubble_redact_http_headers_deny", "and hubble_redact_http_headers_allow exclude each other"
            )
