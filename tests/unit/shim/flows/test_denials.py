"""Which policies denied by default when a record was made, against a datapath that is played step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from shim.endpoints import generation_after
from shim.flows.context import EGRESS, INGRESS, PolicyOrigin
from shim.flows.denials import DefaultDenials, Denying

SECOND = 1_000_000_000
ALLOW, DENY, THIRD = (PolicyOrigin(name=name) for name in ("allow-frontend", "deny-frontend", "third"))
CHOICES: list[Denying] = [None, (), (ALLOW,), (ALLOW, DENY), (THIRD,)]


@dataclass
class Played:
    """One endpoint: what the kernel holds, and each drop that it made with what truly judged it."""

    denials: DefaultDenials = field(default_factory=DefaultDenials)
    now_ns: int = 100
    generation: int = 0xFFFF_FFFE
    stamped: int = 0xFFFF_FFFE
    in_map: Denying = None
    drops: list[tuple[int, int, Denying]] = field(default_factory=list)

    def drop(self) -> None:
        self.now_ns += 1
        if self.in_map is not None:
            self.drops.append((self.stamped, self.now_ns, self.in_map))

    def switch(self, denying: Denying, *, equal_map: bool) -> None:
        """As the policy sink does it, with a packet at each gap; an equal map is not switched."""
        self.in_map = denying
        if not equal_map:
            self.drop()
            self.generation = generation_after(self.generation)
        self.now_ns += 1
        self.denials.tell(7, self.generation, ingress=denying, egress=None, now_ns=self.now_ns)
        self.drop()
        self.stamped = self.generation
        self.drop()

    def end(self) -> None:
        """The endpoint goes; another comes that has its number and generations from the start."""
        self.now_ns += 1
        self.denials.gone(7, self.now_ns)
        self.generation = self.stamped = 0xFFFF_FFFE
        self.in_map = None

    def named(self, generation: int, time_ns: int) -> Denying:
        return tuple(self.denials.at(7, INGRESS, generation, time_ns))


@given(st.lists(st.one_of(st.none(), st.tuples(st.sampled_from(CHOICES), st.booleans())), max_size=12))
def test_each_drop_names_what_judged_it(steps: list[tuple[Denying, bool] | None]) -> None:
    played, between = Played(), set[tuple[int, int]]()
    for step in steps:
        if step is None:
            played.end()
        else:
            first, old = len(played.drops), played.in_map
            played.switch(step[0], equal_map=step[1] and old is not None and step[0] is not None)
            if old is not None and len(played.drops) == first + 3:
                between.add(played.drops[first][:2])  # after the switch, before anybody could know
        played.drop()
    for generation, time_ns, judged in played.drops:
        if (generation, time_ns) not in between:
            assert played.named(generation, time_ns) == judged
    for generation, time_ns in between:
        assert played.named(generation, time_ns) in CHOICES[1:]


def test_a_later_policy_does_not_change_what_an_old_drop_is_called() -> None:
    played = Played()
    played.switch((ALLOW,), equal_map=False)
    before = played.drops[-1]
    played.switch((ALLOW, DENY), equal_map=False)
    assert played.named(*before[:2]) == (ALLOW,)
    assert played.named(*played.drops[-1][:2]) == (ALLOW, DENY)


def test_a_drop_between_switch_and_generation_is_named_by_either() -> None:
    played = Played()
    played.switch(None, equal_map=False)
    played.switch((ALLOW,), equal_map=False)
    assert played.named(*played.drops[0][:2]) == (ALLOW,), "the old map denied nothing by default"
    count = len(played.drops)
    played.switch((THIRD,), equal_map=False)
    assert played.named(*played.drops[count][:2]) == (ALLOW,), "not told yet: the generation decides"
    assert played.named(*played.drops[count + 1][:2]) == (THIRD,), "told: every packet meets the new map"


def test_directions_endpoints_and_generations_are_apart() -> None:
    denials = DefaultDenials()
    denials.tell(7, 4, ingress=(ALLOW,), egress=(DENY,), now_ns=10)
    assert denials.at(7, INGRESS, 4, 20) == (ALLOW,)
    assert denials.at(7, EGRESS, 4, 20) == (DENY,)
    assert denials.at(8, INGRESS, 4, 20) == ()
    assert denials.at(7, INGRESS, 2, 20) == ()
    assert denials.at(7, INGRESS, 4, 5) == (ALLOW,), "a map taken over from an earlier life"


def test_bounds() -> None:
    denials = DefaultDenials(max_generations=3, max_endpoints=2)
    for generation in range(10):
        origin = PolicyOrigin(name=str(generation))
        denials.tell(7, generation, ingress=(origin,), egress=None, now_ns=generation * SECOND * 10)
    assert denials.at(7, INGRESS, 9, 95 * SECOND)[0].name == "9"
    assert denials.at(7, INGRESS, 7, 75 * SECOND)[0].name == "7"
    assert denials.at(7, INGRESS, 6, 65 * SECOND) == (), "forgotten is not the same as the next one"
    denials.gone(7, 100 * SECOND)
    assert denials.at(7, INGRESS, 9, 95 * SECOND)[0].name == "9", "the flows of an endpoint that is gone"
    for endpoint_id in (8, 9):
        denials.tell(endpoint_id, 1, ingress=None, egress=None, now_ns=200 * SECOND)
    assert denials.at(7, INGRESS, 9, 95 * SECOND) == ()
