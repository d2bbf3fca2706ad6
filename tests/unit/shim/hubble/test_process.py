"""The whole process on the memory datapath with metrics and exports of flows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib.tls import TlsFiles
from tests.unit.shim.test_memory_shim import ROOT, free_port, scraped


def settings_of(tmp_path: Path, tls: TlsFiles, **values: Any) -> Path:
    settings = {
        "node_name": "n1",
        "cluster_name": "east",
        "datapath": "memory",
        "dns_proxy": False,
        "observer_listen": "127.0.0.1:0",
        "metrics_address": "127.0.0.1:0",
        "identity_targets": ["127.0.0.1:1"],
        "policy_targets": ["127.0.0.1:1"],
        "internal_ips": ["192.0.2.1"],
        "state_directory": str(tmp_path / "state"),
        "run_directory": str(tmp_path / "run"),
        "ca_file": str(tls.ca),
        "cert_file": str(tls.cert),
        "key_file": str(tls.key),
        "hubble_export_directory": str(tmp_path / "out"),
    } | values
    file = tmp_path / "node.toml"
    file.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items()))
    return file


def start(file: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shim.main", "--config", str(file)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_node_serves_metrics_of_flows(tmp_path: Path, tls_files: Callable[[str], TlsFiles]) -> None:
    address = f"127.0.0.1:{free_port()}"
    file = settings_of(
        tmp_path,
        tls_files("node/n1"),
        hubble_metrics=["dns:query;ignoreAAAA", "drop:labelsContext=source_ip,destination_ip"],
        hubble_metrics_address=address,
        hubble_export_file="events.log",
    )
    process = start(file)
    try:
        text = scraped(address)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    assert 'hubble_lost_events_total{source="hubble_ring_buffer"} 0.0' in text
    assert "# TYPE hubble_drop_total counter" in text
    assert 'hubble_dynamic_exporter_up{name="static"} 1.0' in text


@pytest.mark.slow
def test_a_wrong_filter_stops_the_start_and_is_named(
    tmp_path: Path, tls_files: Callable[[str], TlsFiles]
) -> None:
    file = settings_of(
        tmp_path,
        tls_files("node/n1"),
        hubble_export_file="events.log",
        hubble_export_denylist='{"source_port":["http"]}',
    )
    process = start(file)
    try:
        _, told = process.communicate(timeout=30)
        assert process.returncode == 1
    finally:
        process.kill()
        process.wait()
    assert b"hubble_export_denylist[0].source_port" in told
