"""Fixtures of several contract tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.kvstore.port import Store
from axoneme.lib.tls import TlsFiles
from tests.contract.policyserver import RunningPolicy, running_policy
from tests.etcdserver import running_etcd


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.etcd)])
async def policy_store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each store in turn."""
    if request.param == "memory":
        yield MemoryStore()
        return
    with running_etcd(unix_socket=True) as server:
        async with EtcdStore.connect(server.endpoints, None) as etcd:
            yield etcd


@pytest.fixture
async def policy_service(
    policy_store: Store, tls_files: Callable[[str], TlsFiles]
) -> AsyncIterator[RunningPolicy]:
    """A running policy service."""
    async with running_policy(policy_store, tls_files) as running:
        yield running
