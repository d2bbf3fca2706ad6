"""A client that gives prepared answers, for the commands of `axoneme policy`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.cli import connection
from axoneme.cli.main import main

POLICY = """apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {}
  ingress: [{}]
"""
NAME = pb.PolicyName(kind="CiliumNetworkPolicy", namespace="default", name="web")
LOSER = pb.RuleReference(policy=NAME, rule="spec.egress[1]", action=pb.ACTION_ALLOW, note="a deny wins")
RULE = pb.RuleReference(policy=NAME, rule="spec.ingress[0]", action=pb.ACTION_ALLOW)
BY = "  by spec.ingress[0] of CiliumNetworkPolicy default/web (allow)"


class Fake:
    """A client whose policy service and observer give prepared answers and keep what they were asked."""

    timeout_seconds = 10.0

    def __init__(self) -> None:
        self.policy = self.observer = self
        self.answers: dict[str, Any] = {}
        self.asked: list[Any] = []
        self.timeouts: list[float] = []

    def __getattr__(self, name: str) -> Any:
        def call(request: Any, timeout: float = 0.0) -> Any:
            self.asked.append(request)
            self.timeouts.append(timeout)
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer(request) if callable(answer) else answer

        return call


def install_fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Every command gets this client."""
    client = Fake()

    @contextlib.contextmanager
    def open_client(*_: object) -> Iterator[Fake]:
        yield client

    monkeypatch.setattr(connection, "open_client", open_client)
    return client


Run = tuple[int, str, str]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Run:
    """Exit code, stdout and stderr of the whole program."""
    code = main(["policy", *arguments])
    found = capsys.readouterr()
    return code, found.out, found.err
