"""Looking names up while parts are away: nothing that is allowed fails, nothing that is denied passes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from axoneme.lab import internet
from tests.e2e.dns import FIRST_PACKETS, dig, fetch, names_policy, trial_names, url_of
from tests.e2e.running import Running
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

SHOP = internet.site("shop.example.com")


@pytest.fixture(scope="module")
def trial(laboratory_of_the_session: Running) -> Iterator[None]:
    with trial_names():
        yield


@contextmanager
def looking_up(lab: Running, *, first: int, count: int = 2_000) -> Iterator[Callable[[], list[str]]]:
    """Look-ups of ever new names, each with a connection to its address; gives (unanswered, dropped)."""
    command = lab.inside(
        "frontend", sys.executable, FIRST_PACKETS, lab.ip("dns"), str(count), str(first), "4"
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def outcome() -> list[str]:
            return process.communicate(timeout=120)[0].split()

        yield outcome
        if process.poll() is None:
            process.kill()


def test_a_shim_that_restarts_is_not_noticed(lab: Running, trial: None) -> None:
    """New names too: the proxy needs neither the shim nor the network to decide."""
    lab.in_force(names_policy("*.many.test"))
    with looking_up(lab, first=20_000) as outcome:
        for _ in range(2):
            lab.kill_shim("node1")
        assert outcome() == ["0", "0"]


def test_new_names_while_the_services_and_etcd_are_down(lab: Running, trial: None) -> None:
    lab.in_force(names_policy("*.example.com", "*.many.test"))
    for name in ("policy", "identity", "etcd"):
        lab.kill(name)
    shim = lab.pid_on("node1", "shim.main")
    os.kill(shim, signal.SIGSTOP)
    try:
        assert dig(lab, "frontend", "h7000.many.test").ok
        assert fetch(lab, "frontend", url_of("198.19.27.88")), "an address that nobody knew before"
        assert dig(lab, "frontend", "www.example.org").status == "REFUSED"
    finally:
        os.kill(shim, signal.SIGCONT)
    for name in ("etcd", "identity", "policy"):
        lab.start(name)
    lab.wait_ready()


def test_a_proxy_that_dies_is_back_with_all_it_learned(lab: Running) -> None:
    lab.in_force(names_policy("*.example.com"))
    assert dig(lab, "frontend", "shop.example.com").ok
    before = lab.command("fqdn", "cache", "list", "--node", "node1", "-o", "json").out
    assert "shop.example.com" in before
    old = lab.pid_on("node1", "services.fqdn.main")
    os.kill(old, signal.SIGKILL)
    assert fetch(lab, "frontend", url_of(SHOP.ips[0])), "the kernel still knows the address"
    eventually_sync(lambda: dig(lab, "frontend", "api.example.com").ok, message="the proxy is back")
    assert lab.pid_on("node1", "services.fqdn.main") != old

    def remembered() -> bool:  # its API comes after the queries
        return "shop.example.com" in lab.command("fqdn", "cache", "list", "--node", "node1", "-o", "json").out

    eventually_sync(remembered, message="what was learned is known")


def test_a_proxy_that_hangs_is_replaced(lab: Running) -> None:
    lab.in_force(names_policy("*.example.com"))
    old = lab.pid_on("node1", "services.fqdn.main")
    os.kill(old, signal.SIGSTOP)
    message = "another proxy answers"
    eventually_sync(lambda: dig(lab, "frontend", "api.example.com").ok, seconds=20, message=message)
    assert lab.pid_on("node1", "services.fqdn.main") != old


def test_a_redirect_without_a_live_proxy_drops(lab: Running) -> None:
    """Never past the proxy: what it would have judged waits or is lost."""
    lab.in_force(names_policy("*.example.com"))
    old = lab.pid_on("node1", "services.fqdn.main")
    os.kill(old, signal.SIGSTOP)
    try:
        assert dig(lab, "frontend", "www.example.org", seconds=1).status == "none"
    finally:
        os.kill(old, signal.SIGCONT)
    eventually_sync(lambda: dig(lab, "frontend", "api.example.com").ok, message="the proxy answers")


def test_names_are_known_after_shim_and_proxy_restarted(lab: Running) -> None:
    lab.in_force(names_policy("*.example.com"))
    assert dig(lab, "frontend", "shop.example.com").ok
    os.kill(lab.pid_on("node1", "services.fqdn.main"), signal.SIGKILL)
    lab.kill_shim("node1")
    assert fetch(lab, "frontend", url_of(SHOP.ips[0]))
    assert fetch(lab, "frontend", "http://shop.example.com/", seconds=5)
