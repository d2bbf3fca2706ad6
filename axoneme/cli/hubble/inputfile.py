"""Flows that lie in a file of jsonpb lines, filtered as a server would."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

from axoneme.api.hubble.observer import observer_pb2
from axoneme.cli.flowprinter_json import parse_response
from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.flows.request import select_responses

Response = observer_pb2.GetFlowsResponse


def responses_of_file(
    stack: ExitStack, path: str, request: observer_pb2.GetFlowsRequest, everything: bool
) -> Iterator[list[Response]]:
    """What a server would answer from the lines of the file; `-` is stdin. Raises NotFound, InvalidArgument.

    A request with `follow` reads to the end of the file, which for stdin may be long in coming.
    """
    try:
        source = nullcontext(sys.stdin) if path == "-" else Path(path).open(encoding="utf-8")  # noqa: SIM115
        lines = stack.enter_context(source)
    except OSError as error:
        raise NotFound(f"--input-file {path}: {error.strerror}") from error
    selected = select_responses(_parsed(lines, path), request, everything=everything)
    return ([response] for response in selected)


def _parsed(lines: Iterable[str], path: str) -> Iterator[Response]:
    number = 1
    try:
        for line in lines:
            if line.strip():
                yield parse_response(line)
            number += 1
    except ValueError as error:  # also of bytes that are no UTF-8, which come while reading
        raise InvalidArgument(f"--input-file {path}, line {number}: {error}") from error
