"""Loading, pinning and tcx links on a veth of our own network namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from axoneme.lib.bpf import BpfError, KernelMap, VerifierError, trials
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.features import detailed, is_bpffs, probe
from axoneme.lib.bpf.links import Hook, TcxLink, attached
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.bpf.program import BpfProgram
from shim.bpf.manifest import object_path
from shim.maps import base, layout

pytestmark = pytest.mark.root
BPFFS = Path("/sys/fs/bpf")
LINK = f"axt{os.getpid() % 100_000}"


@pytest.fixture
def pins(compiled: None) -> Iterator[Path]:
    if not is_bpffs(BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    folder = BPFFS / f"axt-{os.getpid()}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ifindex() -> Iterator[int]:
    subprocess.run(["ip", "link", "add", LINK, "type", "veth", "peer", "name", f"{LINK}p"], check=True)
    try:
        yield int((Path("/sys/class/net") / LINK / "ifindex").read_text())
    finally:
        subprocess.run(["ip", "link", "del", LINK], check=False)


def load(pins: Path) -> dict[str, BpfProgram]:
    with BpfObject(object_path()) as loaded:
        loaded.load(pins=pins)
        return loaded.programs()


def test_maps_are_reused_by_their_pins(pins: Path) -> None:
    load(pins)
    with BpfObject(object_path()) as opened:
        assert {path.name for path in pins.iterdir()} == set(opened.map_specs())
    first = KernelMap.open(pins / "axoneme_ipexact")
    first.update(base.address_bytes("10.0.0.1"), layout.IpcacheEntry(5).pack())
    load(pins)
    again = KernelMap.open(pins / "axoneme_ipexact")
    assert again.map_id == first.map_id
    assert again.lookup(base.address_bytes("10.0.0.1")) == layout.IpcacheEntry(5).pack()


def test_a_pinned_map_of_another_definition_is_refused(pins: Path) -> None:
    load(pins)
    before = KernelMap.open(pins / "axoneme_ct").map_id
    with BpfObject(object_path()) as opened, pytest.raises(BpfError, match=r"axoneme_ct.*schema version"):
        opened.load(pins=pins, max_entries={"axoneme_ct": 77})
    assert KernelMap.open(pins / "axoneme_ct").map_id == before


def test_constants_need_a_known_name(compiled: None) -> None:
    with BpfObject(object_path()) as opened, pytest.raises(KeyError):
        opened.set_constants(nonsense=1)


def test_a_broken_object_names_its_file(tmp_path: Path) -> None:
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"no ELF")
    with pytest.raises(VerifierError, match=r"broken\.o"):
        BpfObject(broken)


def test_a_link_is_replaced_by_compare_and_swap(pins: Path, ifindex: int) -> None:
    old, new = load(pins)["axoneme_from_ep"], load(pins)["axoneme_from_ep"]
    link = TcxLink.create(old, ifindex=ifindex, hook=Hook.TCX_INGRESS)
    link.pin(pins / "link")
    old.pin(pins / "program")
    old.pin(pins / "program")
    state = link.state()
    assert (state.program_id, state.ifindex, state.hook) == (old.program_id, ifindex, Hook.TCX_INGRESS)
    with pytest.raises(BpfError) as error:
        link.update(new, expected=new)
    assert error.value.operation == "replace"
    assert link.state().program_id == old.program_id
    successor = TcxLink.open(pins / "link")
    link.close()
    successor.update(new, expected=BpfProgram.open(pins / "program"))
    assert [one.program_id for one in attached(ifindex, Hook.TCX_INGRESS)] == [new.program_id]
    assert attached(ifindex, Hook.TCX_EGRESS) == []
    successor.detach()
    successor.detach()
    assert attached(ifindex, Hook.TCX_INGRESS) == []


@pytest.mark.parametrize("hook", list(Hook))
def test_links_run_in_the_order_that_was_asked_for(pins: Path, ifindex: int, hook: Hook) -> None:
    programs: list[BpfProgram] = []
    for _ in range(2):  # a hook takes each program once
        with BpfObject(object_path("overlay.o")) as opened:
            opened.load(pins=pins)
            programs += opened.programs().values()
    one, two, three, four = programs
    middle = TcxLink.create(one, ifindex=ifindex, hook=hook)
    last = TcxLink.create(two, ifindex=ifindex, hook=hook)
    first = TcxLink.create(three, ifindex=ifindex, hook=hook, before=middle)
    third = TcxLink.create(four, ifindex=ifindex, hook=hook, after=middle)
    wanted = [link.state().link_id for link in (first, middle, third, last)]
    assert [found.link_id for found in attached(ifindex, hook)] == wanted
    other = Hook.TCX_EGRESS if hook is Hook.TCX_INGRESS else Hook.TCX_INGRESS
    with pytest.raises(BpfError, match="attach"):
        TcxLink.create(one, ifindex=ifindex, hook=other, after=middle)
    for link in (first, middle, third, last):
        assert link.is_alive()
        link.detach()
        assert not link.is_alive()
        link.close()


def test_a_link_without_pin_ends_with_its_descriptor(pins: Path, ifindex: int) -> None:
    link = TcxLink.create(load(pins)["axoneme_to_ep"], ifindex=ifindex, hook=Hook.TCX_EGRESS)
    assert len(attached(ifindex, Hook.TCX_EGRESS)) == 1
    link.close()
    assert attached(ifindex, Hook.TCX_EGRESS) == []


def test_attaching_to_nothing_names_the_interface(pins: Path) -> None:
    with pytest.raises(BpfError, match="ifindex 999999"):
        TcxLink.create(load(pins)["axoneme_to_ep"], ifindex=999_999, hook=Hook.TCX_EGRESS)


def test_open_of_a_missing_pin_names_the_path() -> None:
    with pytest.raises(BpfError, match="axt-nothing"):
        KernelMap.open(BPFFS / "axt-nothing")


def test_this_kernel_offers_what_the_datapath_needs(pins: Path) -> None:
    assert probe().missing() == []


def test_every_feature_is_told_in_words(pins: Path, tmp_path: Path) -> None:
    found = detailed(BPFFS)
    assert {name: text for name, text in found.items() if text != "yes"} == {"kernel": os.uname().release}
    elsewhere = detailed(tmp_path, tmp_path)
    assert elsewhere["bpffs"] == f"no bpf file system is mounted at {tmp_path}"
    assert elsewhere["cgroup2"] == f"{tmp_path} is no cgroup v2"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: trials.helper(3, 100_000, "Linux 99"), "the kernel is too old: Linux 99"),
        (lambda: trials.program(1_000), "the kernel refuses programs of this kind: Invalid argument"),
        (lambda: trials.program(18, 9_999), "the kernel refuses programs of this kind: Invalid argument"),
    ],
)
def test_what_no_kernel_has_is_told_too(answer: Callable[[], str], words: str) -> None:
    assert answer() == words


def test_given_maps_are_used_whatever_their_size(pins: Path) -> None:
    smaller = create_map(replace(layout.CT, max_entries=512))
    with BpfObject(object_path()) as opened:
        opened.load(maps={layout.CT.name: smaller})
        used = opened.map(layout.CT.name)
    assert (used.map_id, used.max_entries) == (smaller.map_id, 512)
    wrong = create_map(replace(layout.CT, value_size=8))
    with BpfObject(object_path()) as opened, pytest.raises(BpfError, match="axoneme_ct"):
        opened.load(maps={layout.CT.name: wrong})
    for held in (smaller, used, wrong):
        held.close()


def test_the_verifier_walks_no_more_than_expected(pins: Path) -> None:
    assert max(program.verified_instructions for program in load(pins).values()) < 100_000
