"""What befalls the fleet: strikes drawn from a seed, each undone after a while if it can be."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import redis

from tests.chaos.fleet import Killable
from tests.chaos.proxy import Proxy
from tests.chaos.site import Site
from threadloom.service.embedded_redis import EmbeddedRedis
from threadloom.tasks.runtime import LEASE_MS

#: seconds that a worker is stopped: longer than its lease
STOPPED_S = LEASE_MS / 1000 + 2
#: seconds that a server is out of reach
AWAY_S = 5.0
#: seconds of outages that are longer than one limit or another of a worker
LONG_AWAY_S = (5.0, 45.0, 75.0, 180.0)
#: seconds between two looks at what is to be done
_TICK_S = 0.02
#: the list that is the default queue in Redis
QUEUE = "chaos"

#: strikes that end processes without warning
SIGKILLS = ("kill worker", "kill main process", "kill pool process")
#: how often each strike is drawn, relative to the others
WEIGHTS: Mapping[str, int] = MappingProxyType(
    {
        "kill worker": 8,
        "kill main process": 6,
        "kill pool process": 10,
        "terminate worker": 3,
        "stop worker": 2,
        "cut registry": 2,
        "cut broker": 2,
        "lose a registry reply": 2,
        "lose a broker reply": 2,
        "registry away": 1,
        "broker away": 1,
        "registry silent": 1,
        "broker silent": 1,
        "restart redis": 1,
        "kill redis": 1,
        "purge queue": 2,
    }
)
#: the same, for a run that is long enough for outages of minutes
LONG_WEIGHTS: Mapping[str, int] = MappingProxyType({**WEIGHTS, "registry away for long": 1})


@dataclass(frozen=True)
class Strike:
    """One thing that was done to the system."""

    at: float
    kind: str
    #: processes that were ended without warning
    killed: tuple[int, ...] = ()


class Killer:
    """Strikes a site; to be used by the main thread, which alone may start a Redis."""

    def __init__(
        self,
        site: Site,
        server: EmbeddedRedis,
        registry: Proxy,
        broker: Proxy,
        dice: random.Random,
        *,
        weights: Mapping[str, int] = WEIGHTS,
    ) -> None:
        self._site, self._server = site, server
        self._registry, self._broker = registry, broker
        self._dice = dice
        self._weights = dict(weights)
        self._undone: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self.strikes: list[Strike] = []

    def strike_for(self, duration_s: float, *, every_s: float) -> None:
        """Strike about every `every_s`, then undo what is left to undo.

        Every kind comes about as often as its weight says: they are drawn from a shuffled bag.
        """
        until = time.monotonic() + duration_s
        bag: list[str] = []
        while (now := time.monotonic()) < until:
            bag = bag or self._bag()
            following = now + self._dice.uniform(0.5, 1.5) * every_s
            self.strike(bag.pop())
            while time.monotonic() < min(following, until):
                self._undo()
                time.sleep(_TICK_S)
        self._undo(everything=True)

    def strike(self, kind: str) -> None:
        """Do one of `WEIGHTS` now."""
        worker = self._dice.choice(self._site.fleet.members)
        killed = self._strike(kind, worker)
        self.strikes.append(Strike(time.time(), kind, tuple(killed)))

    def _bag(self) -> list[str]:
        kinds = [kind for kind, weight in self._weights.items() for _ in range(weight)]
        self._dice.shuffle(kinds)
        return kinds

    def _strike(self, kind: str, worker: Killable) -> list[int]:
        if kind in SIGKILLS:
            return self._kill(kind, worker)
        if kind == "terminate worker":
            worker.signal(signal.SIGTERM, whole=False)
        elif kind == "stop worker":
            worker.signal(signal.SIGSTOP)
            self._later(STOPPED_S, lambda: worker.signal(signal.SIGCONT))
        elif kind == "purge queue":
            self._site.redis.delete(QUEUE)
        elif kind.endswith("redis"):
            self._restart(hard=kind == "kill redis")
        else:
            self._break(kind)
        return []

    def _kill(self, kind: str, worker: Killable) -> list[int]:
        if kind == "kill worker":
            pids = worker.pids()
            worker.signal(signal.SIGKILL)
            return pids
        if kind == "kill main process":
            worker.signal(signal.SIGKILL, whole=False)
            return []  # its pool finishes what it does
        pool = worker.pool()
        if not pool:
            return []  # it is starting
        pid = self._dice.choice(pool)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return []
        return [pid]

    def _break(self, kind: str) -> None:
        proxy = self._registry if "registry" in kind else self._broker
        if kind.startswith("cut"):
            proxy.cut()
        elif kind.startswith("lose"):
            proxy.lose_reply(b"EVALSHA" if proxy is self._registry else b"LPUSH")
        elif kind.endswith("for long"):
            proxy.go_away()
            self._later(self._dice.choice(LONG_AWAY_S), proxy.come_back)
        elif kind.endswith("away"):
            proxy.go_away()
            self._later(AWAY_S, proxy.come_back)
        else:
            proxy.fall_silent()
            self._later(AWAY_S, proxy.speak_again)

    def _restart(self, *, hard: bool) -> None:
        """Restart Redis with its data; `hard`: without telling it."""
        if hard:
            os.kill(self._server.pid, signal.SIGKILL)
        self._server.stop()
        self._server.start()
        sync_always(self._site.redis)

    def _later(self, after_s: float, undo: Callable[[], object]) -> None:
        heapq.heappush(self._undone, (time.monotonic() + after_s, next(self._order), undo))

    def _undo(self, *, everything: bool = False) -> None:
        while self._undone and (everything or self._undone[0][0] <= time.monotonic()):
            heapq.heappop(self._undone)[2]()


def sync_always(client: redis.Redis) -> None:
    """Have Redis write to its file before it answers.

    The default writes each second, and a Redis that is killed loses that second: what the
    registry promises holds from then on for what was written.
    """
    client.config_set("appendfsync", "always")
