"""Both pure ends of a stream, rule by rule; the random lives are in tests/model."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from axoneme.lib.intent import (
    Ack,
    Backoff,
    Change,
    Failure,
    Header,
    Hello,
    IntentTable,
    Interest,
    Limits,
    ProtocolError,
    Resync,
    Subscriber,
    Subscription,
    Update,
    fresh_epoch,
)

REFUSED = Failure("INVALID_ARGUMENT", "NO_BASE", "")
FULL = Failure("RESOURCE_EXHAUSTED", "MAP_FULL", "")


def table_of(
    values: dict[str, int], *, keep_sent: bool = False, limits: Limits | None = None
) -> IntentTable[int]:
    table: IntentTable[int] = IntentTable(epoch=1, keep_sent=keep_sent, limits=limits)
    table.apply(values, (), store_revision=1)
    return table


def started(
    table: IntentTable[int], hello: Hello | None = None, interest: Iterable[str] | None = None
) -> Subscription[int]:
    subscription = Subscription(table, interest=interest is not None)
    subscription.receive(hello or Hello(node_name="node1"))
    if interest is not None:
        subscription.receive(Interest(added=tuple(interest)))
    return subscription


def updates(subscription: Subscription[int], *, ack: bool = True) -> list[Update[int]]:
    sent = []
    while (update := subscription.next_update()) is not None:
        sent.append(update)
        if ack:
            subscription.receive(Ack(nonce=update.header.nonce))
    return sent


def changes(sent: list[Update[int]]) -> list[tuple[str, int | None]]:
    return [(change.key, change.value) for update in sent for change in update.changes]


def delta(nonce: int, base: int, revision: int, *changed: Change[int], epoch: int = 1) -> Update[int]:
    header = Header(nonce=nonce, epoch=epoch, base_revision=base, revision=revision)
    return Update(header, changed)


def part(nonce: int, number: int, *changed: Change[int], last: bool, revision: int = 5) -> Update[int]:
    header = Header(nonce=nonce, epoch=1, revision=revision, snapshot_part=number, snapshot_last=last)
    return Update(header, changed)


class TestTable:
    def test_equal_values_change_nothing(self) -> None:
        table = table_of({"a": 1})
        assert table.apply({"a": 1}, ["b"], store_revision=9) == table.revision == 2
        assert table.store_revision == 9

    def test_key_upserted_and_removed_is_refused(self) -> None:
        with pytest.raises(ValueError, match="both"):
            table_of({"a": 1}).apply({"a": 2}, ["a"], store_revision=2)

    def test_log_forgets_the_oldest(self) -> None:
        table = table_of({"a": 1}, limits=Limits(change_log=2))
        for value in (2, 3, 4):
            table.apply({"a": value}, (), store_revision=1)
        assert not table.resumable(1, 2)
        assert table.resumable(1, 3)
        assert not table.resumable(2, 4)
        assert list(table.changes_since(3)) == [(4, "a"), (5, "a")]

    def test_epoch_and_first_revision_are_never_zero(self) -> None:
        assert fresh_epoch(lambda _bits: 0) != 0
        with pytest.raises(ValueError, match="epoch 0"):
            IntentTable[int](epoch=0)


class TestPublisher:
    def test_snapshot_in_parts_then_deltas(self) -> None:
        table = table_of({"a": 1, "b": 2, "c": 3}, limits=Limits(batch_resources=2))
        subscription = started(table)
        sent = updates(subscription)
        assert [(u.header.snapshot_part, u.header.snapshot_last) for u in sent] == [(1, False), (2, True)]
        table.apply({"a": 9}, ["b"], store_revision=2)
        (update,) = updates(subscription)
        assert changes([update]) == [("a", 9), ("b", None)]
        assert (update.header.base_revision, update.header.revision) == (2, 3)

    def test_window_bounds_what_is_unacknowledged(self) -> None:
        table = table_of({str(n): n for n in range(9)}, limits=Limits(batch_resources=1, window=4))
        subscription = started(table)
        assert len(updates(subscription, ack=False)) == 4
        subscription.receive(Ack(nonce=2))
        assert len(updates(subscription, ack=False)) == 2

    def test_batches_end_at_their_weight(self) -> None:
        table = table_of({str(n): n for n in range(4)}, limits=Limits(batch_bytes=10))
        subscription = Subscription(table, weigh=lambda change: 6)
        subscription.receive(Hello(node_name="node1"))
        assert [len(u.changes) for u in updates(subscription)] == [2, 2]

    def test_due_says_when_asking_is_worth_it(self) -> None:
        table = table_of({"a": 1, "b": 2}, limits=Limits(window=1))
        subscription = started(table, interest=["a"])
        assert subscription.due  # not started yet
        update = subscription.next_update()
        assert update is not None
        assert not subscription.due
        table.apply({"b": 3}, (), store_revision=2)
        assert not subscription.due  # of no interest
        table.apply({"a": 3}, (), store_revision=3)
        assert not subscription.due  # the window is full
        subscription.receive(Ack(nonce=update.header.nonce))
        assert subscription.due

    def test_a_snapshot_is_open_until_its_last_part_is_acknowledged(self) -> None:
        table = table_of({"a": 1, "b": 2}, limits=Limits(batch_resources=1))
        subscription = started(table)
        first, second = updates(subscription, ack=False)
        assert (subscription.snapshotting, subscription.snapshot_open) == (False, True)
        subscription.receive(Ack(nonce=first.header.nonce))
        assert subscription.snapshot_open
        subscription.receive(Ack(nonce=second.header.nonce))
        assert not subscription.snapshot_open

    def test_few_keys_of_a_large_change_are_found_by_interest(self) -> None:
        table = table_of({str(n): n for n in range(500)})
        subscription = started(table, interest=["7", "9"])
        updates(subscription)
        table.apply({str(n): n + 1 for n in range(500)}, (), store_revision=2)
        assert subscription.pending == 2
        assert sorted(changes(updates(subscription))) == [("7", 8), ("9", 10)]

    def test_resume_sends_what_changed_and_confirms_at_once(self) -> None:
        table = table_of({"a": 1})
        table.apply({"b": 2}, (), store_revision=2)
        assert changes(updates(started(table, Hello(node_name="n", epoch=1, revision=2)))) == [("b", 2)]
        (confirmation,) = updates(started(table, Hello(node_name="n", epoch=1, revision=3)))
        assert (confirmation.header.snapshot_part, confirmation.changes) == (0, ())

    def test_unknown_epoch_or_old_revision_means_snapshot(self) -> None:
        table = table_of({"a": 1})
        for hello in (Hello(node_name="n", epoch=7, revision=2), Hello(node_name="n", epoch=1, revision=99)):
            assert updates(started(table, hello))[0].header.snapshot_last

    def test_revision_advances_only_behind_the_oldest_pending_change(self) -> None:
        table = table_of({}, limits=Limits(batch_resources=1))
        subscription = started(table)
        updates(subscription)
        table.apply({"a": 1}, (), store_revision=1)
        table.apply({"b": 1}, (), store_revision=1)
        table.apply({"a": 2}, (), store_revision=1)
        assert [u.header.revision for u in updates(subscription)] == [2, 4]

    def test_many_pending_keys_become_a_snapshot(self) -> None:
        table = table_of({str(n): 0 for n in range(6)}, limits=Limits(snapshot_pending=2))
        subscription = started(table)
        updates(subscription)
        table.apply({str(n): 1 for n in range(5)}, (), store_revision=1)
        assert updates(subscription)[0].header.snapshot_part == 1
        assert subscription.snapshots == 2

    def test_reset_starts_a_new_epoch_with_a_snapshot(self) -> None:
        table = table_of({"a": 1})
        subscription = started(table)
        updates(subscription)
        table.reset(epoch=5, store_revision=0)
        assert updates(subscription)[0].header.epoch == 5

    def test_acknowledged_knows_keys_windows_and_failures(self) -> None:
        table = table_of({"a": 1})
        subscription = started(table)
        assert not subscription.acknowledged(table.revision)
        updates(subscription)
        assert subscription.acknowledged(table.revision)
        revision = table.apply({"a": 2}, (), store_revision=1)
        assert not subscription.acknowledged(revision)
        assert subscription.acknowledged(revision, ["b"])
        update = subscription.next_update()
        assert update is not None
        assert not subscription.acknowledged(revision, ["a"])
        table.apply({"a": 3}, (), store_revision=1)
        subscription.receive(Ack(nonce=update.header.nonce, failures={"b": FULL}))
        assert subscription.acknowledged(revision, ["a"])  # the later change is another revision
        assert not subscription.acknowledged(revision, ["b"])
        assert subscription.acknowledged(revision)

    def test_interest_shows_only_its_keys(self) -> None:
        table = table_of({"a": 1, "b": 2, "c": 3})
        subscription = started(table, interest=["a"])
        assert changes(updates(subscription)) == [("a", 1)]
        table.apply({"b": 5}, (), store_revision=1)
        assert updates(subscription) == []
        subscription.receive(Interest(added=("b", "nothing")))
        assert changes(updates(subscription)) == [("b", 5), ("nothing", None)]
        subscription.receive(Interest(removed=("a",)))
        table.apply({"a": 7}, (), store_revision=1)
        assert updates(subscription) == []
        assert subscription.interested(["b", "x"])
        assert not subscription.interested(["a"])

    def test_late_interest_is_sent_whole_on_resume(self) -> None:
        table = table_of({"a": 1, "b": 2})
        subscription = Subscription(table, interest=True)
        subscription.receive(Hello(node_name="n", epoch=1, revision=2))
        assert subscription.next_update() is None  # interest comes first
        subscription.receive(Interest(added=("a",)))
        subscription.receive(Interest(added=("b",)))
        assert changes(updates(subscription)) == [("b", 2)]

    def test_differences_build_on_what_was_sent(self) -> None:
        table = table_of({"a": 1}, keep_sent=True)
        subscription = started(table)
        updates(subscription)
        table.apply({"a": 2}, (), store_revision=1)
        (update,) = updates(subscription)
        assert update.changes == (Change("a", 2, 1),)
        table.apply({"a": 3}, (), store_revision=1)
        table.apply({"a": 2}, (), store_revision=1)
        assert changes(updates(subscription)) == []

    def test_refused_difference_is_repeated_whole_once(self) -> None:
        table = table_of({"a": 1}, keep_sent=True)
        subscription = started(table)
        updates(subscription)
        table.apply({"a": 2}, (), store_revision=1)
        (update,) = updates(subscription)
        subscription.receive(Ack(nonce=update.header.nonce, failures={"a": REFUSED}))
        (whole,) = updates(subscription, ack=False)
        assert whole.changes == (Change("a", 2, None),)
        subscription.receive(Ack(nonce=whole.header.nonce, failures={"a": REFUSED}))
        assert updates(subscription) == []
        table.apply({"a": 3}, (), store_revision=1)
        assert updates(subscription)[0].changes == (Change("a", 3, None),)

    def test_heartbeat_only_when_nothing_else_is_due(self) -> None:
        table = table_of({"a": 1})
        subscription = started(table)
        assert subscription.heartbeat() is None
        updates(subscription)
        beat = subscription.heartbeat()
        assert beat is not None
        assert (beat.changes, beat.header.revision) == ((), table.revision)

    def test_replica_behind_waits(self) -> None:
        table = table_of({"a": 1})
        subscription = started(table, Hello(node_name="n", store_revision=8))
        assert subscription.behind_store == 8
        assert subscription.next_update() is None
        table.apply({}, (), store_revision=8)
        assert subscription.next_update() is not None

    @pytest.mark.parametrize(
        "requests",
        [
            [Ack(nonce=0)],
            [Hello(node_name="n"), Hello(node_name="n")],
            [Hello(node_name="n"), Ack(nonce=4)],
            [Hello(node_name="n"), Interest(added=("a",))],
            [Hello(node_name="n"), Ack(nonce=0, error=FULL)],
        ],
    )
    def test_broken_envelope_ends_the_stream(self, requests: list[Hello | Ack | Interest]) -> None:
        subscription = Subscription(table_of({}))
        with pytest.raises(ProtocolError):  # noqa: PT012  any of them may be the one
            for request in requests:
                subscription.receive(request)


class TestSubscriber:
    def test_snapshot_counts_only_with_its_last_part(self) -> None:
        subscriber: Subscriber[int] = Subscriber(node_name="n")
        subscriber.hello()
        assert subscriber.receive(part(1, 1, Change("a", 1), last=False)).delta is None
        assert subscriber.desired == {}
        step = subscriber.receive(part(2, 2, Change("b", 2), last=True))
        assert step.delta is not None
        assert (step.delta.upserts, step.delta.complete) == ({"a": 1, "b": 2}, True)
        assert subscriber.hello() == Hello(node_name="n", epoch=1, revision=5)

    def test_next_snapshot_tells_only_differences(self) -> None:
        subscriber: Subscriber[int] = Subscriber(node_name="n")
        subscriber.receive(part(1, 1, Change("a", 1), Change("b", 2), last=True))
        step = subscriber.receive(part(2, 1, Change("a", 1), Change("c", 3), last=True))
        assert step.delta is not None
        assert (step.delta.upserts, step.delta.removals) == ({"c": 3}, {"b"})

    @pytest.mark.parametrize(
        "update",
        [
            delta(2, 4, 6),
            delta(2, 5, 6, epoch=9),
            delta(1, 5, 6),
            delta(3, 5, 6),
            part(2, 2, last=True),
        ],
    )
    def test_gaps_ask_for_a_snapshot_and_ignore_the_rest(self, update: Update[int]) -> None:
        subscriber: Subscriber[int] = Subscriber(node_name="n")
        subscriber.receive(part(1, 1, Change("a", 1), last=True))
        step = subscriber.receive(update)
        assert isinstance(step.resync, Resync)
        assert step.delta is None
        after = subscriber.receive(delta(update.header.nonce + 1, 5, 6, Change("b", 1)))
        assert (after.delta, after.resync) == (None, None)
        assert not subscriber.in_step
        assert subscriber.receive(part(update.header.nonce + 2, 1, last=True)).delta is not None
        assert subscriber.in_step

    def test_duplicate_and_unreadable_resources_fail_alone(self) -> None:
        subscriber: Subscriber[int] = Subscriber(node_name="n")
        subscriber.receive(part(1, 1, Change("a", 1), Change("b", 1), Change("c", 1), last=True))
        bad = delta(2, 5, 6, Change("a", 2), Change("a", 3), Change("b", 2))
        step = subscriber.receive(Update(bad.header, bad.changes, {"c": REFUSED}))
        assert step.delta is not None
        assert step.delta.upserts == {"b": 2}
        ack = subscriber.ack(2, {"b": FULL})
        assert {key: failure.reason for key, failure in ack.failures.items()} == {
            "a": "DUPLICATE_KEY",
            "b": "MAP_FULL",
            "c": "NO_BASE",
        }
        assert subscriber.revision == 6
        subscriber.receive(delta(3, 6, 7, Change("a", 4), Change("c", None)))
        assert subscriber.refused == {}

    def test_refused_resource_of_a_snapshot_keeps_its_last_value(self) -> None:
        subscriber: Subscriber[int] = Subscriber(node_name="n")
        subscriber.receive(part(1, 1, Change("a", 1), last=True))
        snapshot = part(2, 1, last=True)
        step = subscriber.receive(Update(snapshot.header, (), {"a": REFUSED}))
        assert step.delta is not None
        assert step.delta.removals == frozenset()
        assert subscriber.desired == {"a": 1}

    def test_forget_and_retell(self) -> None:
        subscriber: Subscriber[int] = Subscriber(node_name="n")
        subscriber.receive(part(1, 1, Change("a", 1), last=True))
        subscriber.forget(retell=True)
        assert subscriber.hello().revision == 0
        step = subscriber.receive(part(1, 1, Change("a", 1), last=True))
        assert step.delta is not None
        assert step.delta.upserts == {"a": 1}

    def test_opening_interest_tells_held_keys_from_others(self) -> None:
        subscriber: Subscriber[int] = Subscriber(node_name="n", interest=True)
        assert subscriber.want({"a", "b"}) == Interest(added=("a", "b"))
        assert subscriber.want({"a"}) is None
        assert subscriber.opening_interest() == [Interest(added=("a", "b"))]
        subscriber.hello()
        subscriber.receive(part(1, 1, Change("a", 1), Change("foreign", 1), last=True))
        assert subscriber.desired == {"a": 1}
        subscriber.hello()
        assert subscriber.opening_interest() == [Interest(added=("a",)), Interest(added=("b",))]

    def test_key_dropped_and_wanted_again_is_not_trusted_on_resume(self) -> None:
        """An update sent before the drop may arrive after the second want, older than the revision says."""
        subscriber: Subscriber[int] = Subscriber(node_name="n", interest=True)
        subscriber.want({"a"})
        subscriber.opening_interest()
        subscriber.receive(part(1, 1, Change("a", 1), last=True))
        message, taken = subscriber.drop({"a"})
        assert message == Interest(removed=("a",))
        assert taken is not None
        assert taken.removals == {"a"}
        subscriber.want({"a"})
        subscriber.receive(delta(2, 5, 6, Change("a", 2)))
        subscriber.receive(delta(3, 6, 9))
        subscriber.hello()
        assert subscriber.opening_interest() == [Interest(), Interest(added=("a",))]

    def test_interest_needs_a_keyed_stream(self) -> None:
        subscriber: Subscriber[int] = Subscriber(node_name="n")
        with pytest.raises(ValueError, match="interest"):
            subscriber.want({"a"})
        with pytest.raises(ValueError, match="interest"):
            subscriber.drop({"a"})
        assert subscriber.opening_interest() == []

    def test_goodbye(self) -> None:
        subscription = started(table_of({}))
        update = subscription.goodbye(FULL)
        subscription.close()
        assert Subscriber[int](node_name="n").receive(update).goodbye == FULL


def test_backoff_doubles_up_to_its_limit() -> None:
    backoff = Backoff(lambda: 1.0, first=0.2, limit=1.0)
    assert [backoff.next_delay() for _ in range(4)] == [0.2, 0.4, 0.8, 1.0]
    backoff.reset()
    assert backoff.next_delay() == 0.2
    backoff.raise_to_limit()
    assert backoff.next_delay() == 1.0
