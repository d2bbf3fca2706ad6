"""The shared envelope on the wire: axoneme.api.intent.v1 messages and back."""

from __future__ import annotations

from axoneme.api.intent.v1 import intent_pb2
from axoneme.lib.intent import Ack, Failure, Header, Hello, Resync


def hello_from_message(message: intent_pb2.Hello) -> Hello:
    """Returns the Hello of a wire message."""
    return Hello(
        node_name=message.node_name,
        epoch=message.epoch,
        revision=message.revision,
        store_revision=message.store_revision,
    )


def hello_to_message(hello: Hello) -> intent_pb2.Hello:
    """Returns the wire message of a Hello."""
    return intent_pb2.Hello(
        node_name=hello.node_name,
        epoch=hello.epoch,
        revision=hello.revision,
        store_revision=hello.store_revision,
    )


def failure_from_message(message: intent_pb2.Failure) -> Failure:
    """Returns the failure of a wire message."""
    return Failure(message.code, message.reason, message.message)


def failure_to_message(failure: Failure) -> intent_pb2.Failure:
    """Returns the wire message of a failure."""
    return intent_pb2.Failure(code=failure.code, reason=failure.reason, message=failure.message)


def ack_from_message(message: intent_pb2.Ack) -> Ack:
    """Returns the Ack of a wire message."""
    return Ack(
        nonce=message.nonce,
        revision=message.revision,
        error=failure_from_message(message.error) if message.HasField("error") else None,
        failures={failed.key: failure_from_message(failed.failure) for failed in message.failures},
    )


def ack_to_message(ack: Ack) -> intent_pb2.Ack:
    """Returns the wire message of an Ack; failures are in order of their keys."""
    return intent_pb2.Ack(
        nonce=ack.nonce,
        revision=ack.revision,
        error=failure_to_message(ack.error) if ack.error is not None else None,
        failures=[
            intent_pb2.ResourceFailure(key=key, failure=failure_to_message(failure))
            for key, failure in sorted(ack.failures.items())
        ],
    )


def resync_from_message(message: intent_pb2.Resync) -> Resync:
    """Returns the Resync of a wire message."""
    return Resync(reason=message.reason)


def resync_to_message(resync: Resync) -> intent_pb2.Resync:
    """Returns the wire message of a Resync."""
    return intent_pb2.Resync(reason=resync.reason)


def header_from_message(message: intent_pb2.UpdateHeader) -> Header:
    """Returns the header of a wire message. Raises ValueError when it has no nonce: then it is not an
    update.
    """
    if message.nonce == 0:
        raise ValueError("header.nonce: must be 1 or more")
    return Header(
        nonce=message.nonce,
        epoch=message.epoch,
        base_revision=message.base_revision,
        revision=message.revision,
        snapshot_part=message.snapshot_part,
        snapshot_last=message.snapshot_last,
        goodbye=failure_from_message(message.goodbye) if message.HasField("goodbye") else None,
        store_revision=message.store_revision,
    )


def header_to_message(header: Header) -> intent_pb2.UpdateHeader:
    """Returns the wire message of a header."""
    return intent_pb2.UpdateHeader(
        nonce=header.nonce,
        epoch=header.epoch,
        base_revision=header.base_revision,
        revision=header.revision,
        snapshot_part=header.snapshot_part,
        snapshot_last=header.snapshot_last,
        goodbye=failure_to_message(header.goodbye) if header.goodbye is not None else None,
        store_revision=header.store_revision,
    )
