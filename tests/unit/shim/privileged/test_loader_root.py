"""Objects that cannot be had: the node goes on without them, and says why; only the endpoint's is a must."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from axoneme.lib.errors import FailedPrecondition
from shim.bpf.manifest import ObjectsMissingError, object_path
from shim.maps import layout
from shim.privileged import loader, objects
from shim.privileged.loader import ProgramLoader
from shim.privileged.protocol import LoadPrograms

pytestmark = pytest.mark.root


@pytest.fixture
def pins() -> Iterator[Path]:
    folder = Path("/sys/fs/bpf") / f"axt-f-{uuid.uuid4().hex[:8]}"
    yield folder / f"v{layout.SCHEMA_VERSION}"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Makes an object missing, or one that the kernel refuses."""
    found: dict[str, str] = {}

    def path_of(name: str) -> Path:
        if found.get(name) == "missing":
            raise ObjectsMissingError(f"{name} is missing: run `make bpf`")
        if found.get(name) == "broken":
            (tmp_path / name).write_bytes(b"no object at all")
            return tmp_path / name
        return object_path(name)

    for module in (objects, loader):
        monkeypatch.setattr(module, "object_path", path_of)
    return found.__setitem__


def test_an_object_that_cannot_be_had_is_named(pins: Path, paths: Callable[[str, str], None]) -> None:
    made = ProgramLoader(pins)
    with pytest.raises(FailedPrecondition, match="no programs are loaded yet"):
        made.need(["host"])
    assert "axoneme_from_ep" in made.load(LoadPrograms())
    paths("host.o", "missing")
    paths("overlay.o", "broken")
    faults = made.need(["host", "overlay", "netdev"])
    assert faults.keys() == {"host", "overlay"}
    assert faults["host"] == "host.o is missing: run `make bpf`"
    assert "overlay.o" in faults["overlay"]
    with pytest.raises(FailedPrecondition, match=r"axoneme_host_in: host\.o is missing"):
        made.program("axoneme_host_in")
    assert made.program("axoneme_from_netdev").fd > 0
    paths("host.o", "there")
    assert made.need(["host"]) == {}
    assert made.program("axoneme_host_in").fd > 0
    made.release(["host"])
    with pytest.raises(FailedPrecondition):
        made.program("axoneme_host_in")
    assert {path.name for path in pins.iterdir()} >= set(layout.MAPS)


@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_without_the_endpoints_object_nothing_is_changed(
    pins: Path, paths: Callable[[str, str], None], fault: str
) -> None:
    paths("endpoint.o", fault)
    made = ProgramLoader(pins)
    with pytest.raises(FailedPrecondition, match=r"endpoint\.o") as caught:
        made.load(LoadPrograms())
    assert caught.value.reason == "BPF_OBJECTS_MISSING"
    assert not (pins / layout.CT.name).exists()


def test_all_objects_share_their_maps(pins: Path) -> None:
    made = ProgramLoader(pins)
    made.load(LoadPrograms(map_sizes={"axoneme_nat": 4096}))
    names = ["netdev", "overlay", "host", "sock", "xdp", "sockmap"]
    assert made.need(names) == {}
    first = made._pinned_maps()
    assert set(first) == set(layout.MAPS)
    again = ProgramLoader(pins)
    again.load(LoadPrograms(map_sizes={"axoneme_nat": 4096}))
    assert again.need(names) == {}
    assert again._pinned_maps() == first
