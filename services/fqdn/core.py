"""What decides and learns, with the hot loop's thread: everything that works without gRPC.

    disk ─► rules, identities, names ─► judge, learner ─┐
    pins ─► node's maps ────────────────────────────────┴─► Proxy in its own thread

It is up before anything else of the process is imported: a proxy that was killed listens again at once, and
judges by what it judged by before.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError, LibraryMissingError
from services.fqdn import journal as disk
from services.fqdn.cache import Limits
from services.fqdn.config import DROP, FqdnConfig
from services.fqdn.judging import RuleJudge, RuleTable
from services.fqdn.learner import LearnerSettings, NameLearner, boottime_ns
from services.fqdn.lookups import LookupFeed
from services.fqdn.persistence import Compactor, restore
from services.fqdn.pins import NodeMaps, open_maps
from services.fqdn.proxy.loop import Proxy, Stopped
from services.fqdn.rulebook import RuleBook
from services.fqdn.tables import IdentityTable

logger = logging.getLogger(__name__)


class Core:
    """State that both threads share, as values that are swapped or under the learner's lock."""

    def __init__(self, cfg: FqdnConfig, *, clocks: Callable[[], disk.Clocks] | None = None) -> None:
        self.cfg = cfg
        self._clocks = clocks or (lambda: disk.clocks_now(boottime_ns(), time.time()))
        self.journal = disk.DiskJournal(cfg.state_directory)
        self.feed = LookupFeed()
        self.book = RuleBook()
        self.maps: NodeMaps | None = None
        limits = Limits(
            ips_per_name=cfg.max_ips_per_name,
            names=cfg.max_names_per_endpoint,
            addresses=cfg.max_addresses_per_endpoint,
        )
        settings = LearnerSettings(
            min_ttl=cfg.min_ttl,
            barrier_seconds=cfg.barrier_seconds,
            drop=cfg.barrier_action == DROP,
            limits=limits,
        )
        self.learner = NameLearner(None, settings, self.journal)
        self.judge = RuleJudge(None, self.learner.number_of)
        self.compactor = Compactor(self.learner, self.journal, self._clocks)
        self.identities_read_ns = -1
        self._built = -1

    def restore(self) -> None:
        """Takes over what an earlier life left on disk. Nothing of it can keep the process from starting."""
        from services.fqdn.rulesfile import load_rules  # brings protobuf: the sockets are open by then

        for subject, rules in load_rules(self.cfg.rules_file).items():
            self.book.set_rules(subject, rules)
        self.read_identities()
        count = self.restore_names()
        self.rebuild()
        logger.info("state restored", extra={log.COUNT: count})

    def restore_names(self) -> int:
        """Takes over what was learned, and begins to write down what is; how many names there are."""
        count = restore(self.learner, self.journal, self._clocks())
        try:
            self.journal.begin(self._clocks())
        except OSError as error:
            logger.warning("names not kept on disk", extra={log.ERROR: log.clip(error)})
        return count

    def open_maps(self) -> str:
        """Opens the node's maps; why not, in words."""
        if self.maps is not None:
            return ""
        try:
            maps = NodeMaps(open_maps(self.cfg.pin_directory))
        except (BpfError, LibraryMissingError) as error:
            return log.clip(error)
        self.maps = self.learner.maps = self.judge.maps = maps
        return ""

    def read_identities(self) -> bool:
        """Learns by the file of now; whether it is another one. `learner.review` has to follow."""
        path = self.cfg.identities_file
        try:
            stamp = path.stat().st_mtime_ns if path.exists() else 0
            table = IdentityTable.read(path)
        except (OSError, ValueError) as error:
            logger.warning("identities not read", extra={log.ERROR: log.clip(error)})
            # Before the first table nothing says what the kernel's numbers stand for.
            self.learner.table_unreadable = self.identities_read_ns < 0
            return False
        known, self.identities_read_ns = self.identities_read_ns, stamp
        if stamp == known and table.revision == self.learner.table.revision:
            return False
        self.learner.replace_table(table)
        self._built = -1
        self.rebuild()
        return True

    def rebuild(self) -> bool:
        """Has the hot loop judge by the book of now; whether that changed anything."""
        if self._built == self.book.revision:
            return False
        self._built = self.book.revision
        self.judge.table = RuleTable.of(self.book, self.learner.table)
        return True


class HotLoop:
    """The proxy's thread."""

    def __init__(self, core: Core) -> None:
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._heartbeat = core.cfg.heartbeat
        self.proxy = Proxy(
            core.cfg.proxy, core.judge, core.learner, core.feed, stop=self._stop, heartbeat=self._beat
        )
        self.listening = False
        self.error = ""
        self.ended: Callable[[], None] = lambda: None
        self.opened: Callable[[], None] = lambda: None
        self._restored = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dns proxy", daemon=True)

    def start(self) -> None:
        """Binds; what comes in waits in the sockets until `serve`."""
        self._thread.start()

    def serve(self) -> None:
        """The state is restored: queries may be judged."""
        self._restored.set()

    def stop(self) -> None:
        """Ends it and waits."""
        os.eventfd_write(self._stop, 1)
        self._restored.set()
        self._thread.join()
        os.close(self._stop)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Held answers may be ready."""
        if self.listening:
            self.proxy.wake()

    def _beat(self) -> None:
        beat(self._heartbeat)

    def _run(self) -> None:
        try:
            self.proxy.open()
            self._restored.wait()
            self.listening = True
            self._beat()
            self.opened()
            logger.info("listening")
            self.proxy.run()
        except Stopped:
            pass
        except Exception as error:
            self.error = log.clip(error)
            logger.exception("the proxy ended")
        finally:
            self.listening = False
            self.proxy.close()
            self.ended()


def beat(path: Path) -> None:
    """Touches the heartbeat."""
    try:
        os.utime(path)
    except FileNotFoundError:
        path.touch(mode=0o600)
