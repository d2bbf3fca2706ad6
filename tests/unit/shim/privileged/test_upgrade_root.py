"""The upgrade contract: maps of an older schema or another size are taken over under traffic."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.errors import FailedPrecondition
from shim.bpf.compile import _FLAGS, _include_flags
from shim.maps import base, layout
from shim.privileged import protocol, schema
from shim.privileged.client import HelperClient
from tests.unit.shim.nodelab import ROOT, NodeLab
from tests.unit.shim.privileged.flood import NODE, PORT, allow_all, connect, flood

pytestmark = pytest.mark.root

SCHEMA1_COMMIT = "409ab5e~1"
"""The last commit whose maps are of schema 1."""
IPS = ("10.91.0.7", "fd00:91::7")

OLD_HELPER = """
import sys
from pathlib import Path
from axoneme.lib.bpf.links import Hook, TcxLink
from axoneme.lib.bpf.object import BpfObject
from shim.privileged import interfaces
pins = Path(sys.argv[2])
(pins / "links").mkdir(parents=True)
with BpfObject(Path(sys.argv[1])) as opened:
    opened.load(pins=pins)
    programs = opened.programs()
for name, hook in (("axoneme_from_ep", Hook.TCX_INGRESS), ("axoneme_to_ep", Hook.TCX_EGRESS)):
    link = TcxLink.create(programs[name], ifindex=int(sys.argv[3]), hook=hook)
    link.pin(pins / "links" / f"7-{name}")
interfaces.open_traffic(7, sys.argv[5:], sys.argv[4])
"""


@pytest.fixture(scope="module")
def schema1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The endpoint's object as it was."""
    folder = tmp_path_factory.mktemp("schema1")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", SCHEMA1_COMMIT, "shim/bpf"], capture_output=True
    )
    if archive.returncode or shutil.which("clang") is None:
        pytest.skip("needs the repository's history and clang")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    source, made = folder / "shim" / "bpf" / "endpoint.bpf.c", folder / "endpoint.o"
    subprocess.run(["clang", *_FLAGS, *_include_flags(), "-c", str(source), "-o", str(made)], check=True)
    return made


def old_node(lab: NodeLab, helper: HelperClient, schema1: Path) -> tuple[Path, str]:
    """An endpoint under programs and maps of schema 1; its folder of pins, and its namespace."""
    old = lab.pins.with_name("v1")
    netns = lab.add_workload()
    made = helper.call(protocol.CreateInterface(endpoint_id=7, netns=netns, interface_name="eth0", ips=IPS))
    words = (str(schema1), str(old), str(made["ifindex"]), made["mac"], *IPS)
    done = lab.exec(f"/run/netns/{lab.name}", sys.executable, "-c", OLD_HELPER, *words)
    assert done.returncode == 0, done.stderr
    allow_all(old, made["ifindex"])
    return old, netns.rpartition("/")[2]


def connection(family: int, port: int) -> layout.CtKey:
    return layout.CtKey(
        base.address_bytes(IPS[family == 6]),
        base.address_bytes(NODE[family]),
        port.to_bytes(2, "big"),
        PORT.to_bytes(2, "big"),
        17,
        2,
        7,
    )


@pytest.mark.parametrize("family", [4, 6])
def test_schema_1_is_taken_over_under_traffic(
    lab: NodeLab, helper: HelperClient, schema1: Path, family: int
) -> None:
    old, pod = old_node(lab, helper, schema1)
    old_ids = {name: KernelMap.open(old / name).map_id for name in ("axoneme_policy", "axoneme_ct")}
    idle = connection(family, 999).pack()
    KernelMap.open(old / "axoneme_ct").update(idle, bytes(range(24)))
    with flood(lab, pod, family) as count:
        helper.call(protocol.LoadPrograms())
    assert count.sent > 20
    assert count.lost == 0, "what comes back passes by its connection alone"
    assert not old.exists()
    assert {path.name for path in (lab.pins / "links").iterdir()} == {"7-axoneme_from_ep", "7-axoneme_to_ep"}
    assert helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]
    connections = KernelMap.open(lab.pins / "axoneme_ct")
    assert connections.map_id != old_ids["axoneme_ct"]
    assert connections.lookup(idle) == bytes(range(24)) + bytes(8)
    assert connections.lookup(connection(family, count.port).pack()) is not None
    assert KernelMap.open(lab.pins / "axoneme_policy").map_id == old_ids["axoneme_policy"], "did not change"
    assert {path.name for path in lab.pins.iterdir()} >= {*layout.MAPS, "links"}


@pytest.mark.parametrize("family", [4, 6])
def test_other_map_sizes_are_taken_over_under_traffic(
    lab: NodeLab, helper: HelperClient, family: int
) -> None:
    helper.call(protocol.LoadPrograms())
    _, pod = connect(lab, helper)
    with flood(lab, pod, family) as count:
        for size in (4_096, 262_144, 8_192):
            helper.call(protocol.LoadPrograms(map_sizes={"axoneme_ct": size, "axoneme_ipexact": size}))
            assert KernelMap.open(lab.pins / "axoneme_ct").max_entries == size
            exact = KernelMap.open(lab.pins / "axoneme_ipexact")
            assert exact.max_entries == size
            assert exact.lookup(base.address_bytes(NODE[family])) is not None
    assert (count.sent > 20, count.lost) == (True, 0)
    helper.call(protocol.LoadPrograms(replace=False))
    assert KernelMap.open(lab.pins / "axoneme_ct").max_entries == layout.CT.max_entries


def test_a_size_that_does_not_hold_what_is_there_changes_nothing(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    connect(lab, helper)
    exact = KernelMap.open(lab.pins / "axoneme_ipexact")
    entries = [
        (base.address_bytes(f"10.7.{n >> 8}.{n & 255}"), layout.IpcacheEntry(7).pack()) for n in range(200)
    ]
    exact.update_batch(entries)
    with pytest.raises(FailedPrecondition, match="axoneme_ipexact holds more than 100") as caught:
        helper.call(protocol.LoadPrograms(map_sizes={"axoneme_ipexact": 100}))
    assert caught.value.reason == "MAP_FULL"
    assert KernelMap.open(lab.pins / "axoneme_ipexact").map_id == exact.map_id
    assert helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]


def test_folders_are_compared_as_numbers(tmp_path: Path) -> None:
    for name in ("v2", "v9", "v10", "v11", "vx", "other"):
        (tmp_path / name).mkdir()
    found = schema.older_folder(tmp_path / "v11")
    assert found is not None
    assert found.name == "v10"
    assert schema.older_folder(tmp_path / "v2") is None
    assert schema.older_folder(tmp_path / "absent" / "v2") is None


def test_conversions_of_all_steps_run_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layout, "SCHEMA_VERSION", 4)
    steps = {
        1: {"axoneme_ct": lambda key, value: (key, value + b"1"), "axoneme_frag": lambda key, value: None},
        3: {
            "axoneme_ct": lambda key, value: (key, value + b"3"),
            "axoneme_frag": lambda key, value: (key, b""),
        },
    }
    monkeypatch.setattr(schema, "STEPS", steps)
    made = schema.converters_from(tmp_path / "v1")
    assert made["axoneme_ct"](b"k", b"v") == (b"k", b"v13")
    assert made["axoneme_frag"](b"k", b"v") is None
    assert schema.converters_from(tmp_path / "v2")["axoneme_ct"](b"k", b"v") == (b"k", b"v3")
    assert schema.converters_from(None) == {}
