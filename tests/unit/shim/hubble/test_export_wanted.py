"""Lists of exports: what they say, and errors that name entry and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import AxonemeError, InvalidArgument
from shim.hubble.export.settings import ExportSettings, filters_of_json, path_below
from shim.hubble.export.wanted import parse_exports

LIST = """
flowLogs:
- name: all
  filePath: all.log
  fieldMask: []
  includeFilters: []
  excludeFilters: []
  end: "2026-03-01T11:00:00+01:00"
- name: drops
  filePath: deep/drops.log
  fieldMask: [source.pod_name, verdict]
  includeFilters:
  - source_pod: ["default/"]
    event_type:
    - type: 1
  - '{"verdict":["DROPPED"]} {"destinationPod":["kube-system/"]}'
  excludeFilters:
  - protocol: [dns]
  fileMaxSizeMb: 3
  fileMaxBackups: 2
  fileCompress: true
  end: 2026-03-01T10:00:00.5Z
"""


def test_a_list(tmp_path: Path) -> None:
    everything, drops = parse_exports(LIST.encode(), tmp_path)
    ten = 1_772_359_200_000_000_000
    assert everything == ExportSettings(name="all", path=tmp_path / "all.log", end_ns=ten)
    assert drops == ExportSettings(
        name="drops",
        path=tmp_path / "deep" / "drops.log",
        include=(
            flow_pb2.FlowFilter(source_pod=["default/"], event_type=[flow_pb2.EventTypeFilter(type=1)]),
            flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED]),
            flow_pb2.FlowFilter(destination_pod=["kube-system/"]),
        ),
        exclude=(flow_pb2.FlowFilter(protocol=["dns"]),),
        field_mask=("source.pod_name", "verdict"),
        max_bytes=3 << 20,
        max_backups=2,
        compress=True,
        end_ns=ten + 500_000_000,
    )
    assert parse_exports(b"", tmp_path) == ()
    assert parse_exports(b"flowLogs:\n", tmp_path) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flowLogs: {", "is no YAML"),
        ("[]", "must be a mapping"),
        ("flows: []", "must be a mapping"),
        ("flowLogs: 7", "flowLogs.*must be a list, not int"),
        ("flowLogs: [7]", r"flowLogs\[0\].*must be a dict"),
        ("flowLogs: [{filePath: a}]", r"flowLogs\[0\].name.*is missing"),
        ("flowLogs: [{name: a}]", r"flowLogs\[0\].filePath.*names no file"),
        ("flowLogs: [{name: a, filePath: a, filepath: b}]", "has no setting 'filepath'"),
        ("flowLogs: [{name: a, filePath: ../a}]", r"filePath.*'../a' is not below"),
        ("flowLogs: [{name: a, filePath: /etc/passwd}]", "is not below"),
        ("flowLogs: [{name: a, filePath: b/../..}]", "is not below"),
        ("flowLogs: [{name: a, filePath: a, fieldMask: [pod]}]", "fieldMask.*'pod' is not a field"),
        ("flowLogs: [{name: a, filePath: a, fieldMask: [7]}]", "fieldMask.*must be a str"),
        (
            "flowLogs: [{name: a, filePath: a, includeFilters: [{pod: [a]}]}]",
            r"includeFilters\[0\].*no FlowF",
        ),
        ("flowLogs: [{name: a, filePath: a, includeFilters: ['{']}]", r"includeFilters\[0\].*no JSON"),
        (
            "flowLogs: [{name: a, filePath: a, excludeFilters: [{}, {source_port: [x]}]}]",
            r"excludeFilters\[1\]",
        ),
        ("flowLogs: [{name: a, filePath: a, fileMaxSizeMb: -1}]", "fileMaxSizeMb.*must be from"),
        ("flowLogs: [{name: a, filePath: a, fileMaxSizeMb: true}]", "fileMaxSizeMb.*must be a int"),
        ("flowLogs: [{name: a, filePath: a, fileCompress: 'yes'}]", "fileCompress.*must be a bool"),
        ("flowLogs: [{name: a, filePath: a, end: soon}]", r"flowLogs\[0\].end.*is no time"),
        ("flowLogs: [{name: a, filePath: a}, {name: a, filePath: b}]", "two exports are called 'a'"),
        ("flowLogs: [{name: a, filePath: a}, {name: b, filePath: ./a}]", "writes to a file of another"),
        ("flowLogs: [{name: b, filePath: fixed.log}]", "writes to a file of another"),
    ],
)
def test_errors_name_what_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    fixed = ExportSettings(name="static", path=tmp_path / "fixed.log")
    with pytest.raises(AxonemeError) as error:
        parse_exports(text.encode(), tmp_path, [fixed])
    told = f"{[violation.field for violation in error.value.violations]} {error.value}"
    assert re.search(words, told, re.DOTALL), told


@given(st.binary(max_size=60))
def test_any_bytes_are_a_list_or_a_named_error(content: bytes) -> None:
    try:
        parse_exports(content, Path("/nonexistent"))
        parse_exports(b"flowLogs: [" + content + b"]", Path("/nonexistent"))
    except AxonemeError:
        pass


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "way").symlink_to(tmp_path)
    with pytest.raises(InvalidArgument, match="not below"):
        path_below("f", tmp_path / "in", "way/a.log")
    assert path_below("f", tmp_path / "in", str(tmp_path / "in" / "a.log")) == tmp_path / "in" / "a.log"


def test_filters_may_stand_in_a_row() -> None:
    both = filters_of_json("f", '{"verdict":["DROPPED"]}\n{"source_port":["53"]}')
    assert [one.verdict[:] for one in both] == [[flow_pb2.DROPPED], []]
    assert filters_of_json("f", "  ") == ()
