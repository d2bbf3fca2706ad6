"""What the helper chooses by itself for this kernel, with packets: allowed, then denied."""

from __future__ import annotations

import pytest

from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.maps import KernelMap
from shim.maps import layout
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from shim.privileged.tcxplaces import is_known
from tests.unit.shim.nodelab import NodeLab
from tests.unit.shim.privileged.flood import NODE, connect
from tests.unit.shim.privileged.test_places_root import filters

pytestmark = pytest.mark.root


@pytest.mark.parametrize("family", [4, 6])
def test_a_ping_is_judged_by_what_the_helper_attached(
    lab: NodeLab, helper: HelperClient, family: int
) -> None:
    helper.call(protocol.LoadPrograms())
    index, pod = connect(lab, helper)
    expected = ["axoneme_from_ep"] if not is_known() else []
    assert filters(lab, "axo7", "ingress") == expected
    assert len(list((lab.pins / "links").glob("7-*"))) == (2 if is_known() else 0)
    assert reaches(lab, pod, NODE[family])
    forbid_everything(lab, index)
    assert not reaches(lab, pod, NODE[family])


def reaches(lab: NodeLab, pod: str, address: str) -> bool:
    return lab.exec(pod, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", address).returncode == 0


def forbid_everything(lab: NodeLab, ifindex: int, endpoint_id: int = 7) -> None:
    """An empty policy map and a new generation, in the order in which the shim writes them."""
    outer = KernelMap.open(lab.pins / layout.POLICY.name)
    endpoints = KernelMap.open(lab.pins / layout.EP.name)
    inner = create_map(layout.POLICY_INNER)
    outer.set_inner(layout.policy_outer_key(endpoint_id), inner)
    found = endpoints.lookup(layout.endpoint_key(ifindex))
    assert found is not None
    entry = layout.EndpointEntry.unpack(found)
    fields = {name: getattr(entry, name) for name in entry.__slots__}
    changed = layout.EndpointEntry(**fields | {"policy_generation": entry.policy_generation + 1})
    endpoints.update(layout.endpoint_key(ifindex), changed.pack())
    for held in (outer, endpoints, inner):
        held.close()
