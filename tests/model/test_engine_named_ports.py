"""The index of port names against a look at every pod."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.resolution.namedports import NamedPorts, PortName
from tests.conftest import scaled

_NAMES: list[PortName] = [(6, "web"), (6, "www"), (17, "web")]
_pods = st.tuples(st.integers(300, 302), st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]))
_ports = st.dictionaries(st.sampled_from(_NAMES), st.sampled_from([80, 81]))
_steps = st.lists(st.tuples(_pods, st.one_of(st.none(), _ports)), max_size=20)


def _agreed(pods: dict[tuple[int, str], dict[PortName, int]], name: PortName) -> dict[int, int]:
    found: dict[int, set[int]] = {}
    for (identity, _), ports in pods.items():
        if name in ports:
            found.setdefault(identity, set()).add(ports[name])
    return {identity: numbers.pop() for identity, numbers in found.items() if len(numbers) == 1}


@settings(max_examples=scaled(150, 5_000))
@given(_steps)
def test_names_mean_what_all_pods_of_an_identity_agree_on(
    steps: list[tuple[tuple[int, str], dict[PortName, int] | None]],
) -> None:
    """R-36; each step says which names changed their meaning, and a copy goes its own way."""
    names, pods = NamedPorts(), dict[tuple[int, str], dict[PortName, int]]()
    for (identity, address), ports in steps:
        before = {name: dict(names.numbers(name)) for name in _NAMES}
        kept = names.copy()
        if ports is None:
            changed = names.remove(identity, address)
            pods.pop((identity, address), None)
        else:
            changed = names.put(identity, address, ports)
            pods[identity, address] = ports
        after = {name: dict(names.numbers(name)) for name in _NAMES}
        assert after == {name: _agreed(pods, name) for name in _NAMES}
        assert changed == {name for name in _NAMES if before[name] != after[name]}
        assert {name: dict(kept.numbers(name)) for name in _NAMES} == before
        held = {name for (one, _), found in pods.items() if one == identity for name in found}
        assert names.names_of(identity) == held
