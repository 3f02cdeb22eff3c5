"""A chaos run: conversations without end, a killer among them, and a count at the end."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest import mock

import redis
from kombu.exceptions import OperationalError

from tests.chaos.killer import REVOCATIONS, SIGKILLS, WEIGHTS, Killer, sync_always
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.chaos.resumption import Resumption, resumptions, silences
from tests.chaos.site import Site
from tests.chaos.verdict import Flaw, ended, flaws, story
from tests.chaos.workload import Plan, chosen
from threadloom import tasks
from threadloom.config import RegistryUnavailableError
from threadloom.service.embedded_redis import EmbeddedRedis
from threadloom.tasks import injection

#: conversations under way at any time
IN_FLIGHT = 24
#: conversations that are begun in one message, now and then
TOGETHER = 4
#: one in so many is sent with an expiry, of up to so many seconds
EXPIRE_ONE_IN, EXPIRES_S = 12, 4.0
#: seconds that all of them have to end once the last strike is over
SETTLE_S = 60.0
_LOOK_S = 0.1


@dataclass(frozen=True)
class Report:
    """What was done, and what became of it."""

    seed: int
    strikes: Counter[str]
    conversations: int
    deliveries: int
    runs: int
    flaws: Sequence[Flaw]
    #: what each SIGKILL hit, and how long that stood still; the worst last
    resumed: Sequence[Resumption]
    #: the longest time in which nothing of a conversation was done, outages included
    silence_s: float
    #: why workers ended by themselves
    gave_up: Sequence[str]
    #: the story of the first conversation with a flaw, else of the one that was silent longest
    story: str = ""

    @property
    def sigkills(self) -> int:
        """How many processes were killed."""
        return sum(self.strikes[kind] for kind in SIGKILLS)

    @property
    def repeated(self) -> int:
        """Handler runs beyond one per delivery: what at-least-once costs."""
        return self.runs - self.deliveries

    @property
    def median_s(self) -> float:
        """The median resumption; 0 where nothing was hit."""
        return median(each.seconds for each in self.resumed) if self.resumed else 0.0

    @property
    def worst_s(self) -> float:
        """The worst resumption; 0 where nothing was hit."""
        return self.resumed[-1].seconds if self.resumed else 0.0


class Workload:
    """Keeps conversations under way, in a thread of its own, until it is told to stop."""

    def __init__(self, site: Site, dice: random.Random, *, wide: bool) -> None:
        self._site = site
        self._dice = dice
        self._wide = wide
        self.plans: dict[str, Plan] = {}
        #: revoked, or sent with an expiry: they may end without an answer
        self.ended_from_outside: set[str] = set()
        self._under_way: list[str] = []
        self._stopping = threading.Event()
        self._executor = ThreadPoolExecutor(1)
        self._run_over = self._executor.submit(self._run)

    def stop(self) -> None:
        """Begin no more; raises whatever ended the thread before."""
        self._stopping.set()
        self._run_over.result()
        self._executor.shutdown()

    def revoke_one(self, dice: random.Random) -> None:
        """Revoke a conversation that is under way, by Celery's means."""
        under_way = list(self._under_way)
        if under_way:
            revoked = dice.choice(under_way)
            self.ended_from_outside.add(revoked)
            self._site.app.control.revoke(revoked, terminate=dice.choice([False, True]))

    def await_end(self, timeout_s: float) -> None:
        """Return when every conversation has ended, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._under_way and time.monotonic() < deadline:
            self._look()
            time.sleep(_LOOK_S)

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            try:
                self._look()
                while len(self._under_way) < IN_FLIGHT and not self._stopping.is_set():
                    self._begin_some(chosen(self._dice))
            except (RegistryUnavailableError, redis.ConnectionError, redis.TimeoutError):
                continue  # Redis is being restarted

    def _begin_some(self, plan: Plan) -> None:
        if self._wide and not self._dice.randrange(EXPIRE_ONE_IN):
            self._send(str(uuid.uuid4()), plan)
            return
        count = self._dice.choice((1, 1, TOGETHER))
        self._begin([str(uuid.uuid4()) for _ in range(count)], plan)

    def _begin(self, conversations: list[str], plan: Plan) -> None:
        """Several of the same plan share one message."""
        payloads = [plan.message] * len(conversations)
        while not self._stopping.is_set():
            try:
                with mock.patch.object(injection, "per_message", _all):
                    tasks.inject_many(self._site.app, plan.to, payloads, ids=conversations)
            except RegistryUnavailableError:
                time.sleep(_LOOK_S)  # they may be in or not: the same ids again are the same ones
                continue
            self.plans |= dict.fromkeys(conversations, plan)
            self._under_way += conversations
            return

    def _send(self, conversation_id: str, plan: Plan) -> None:
        """As any Celery app does, and only if a worker takes it in time."""
        self.ended_from_outside.add(conversation_id)
        while not self._stopping.is_set():
            try:
                self._site.app.send_task(
                    plan.to, [plan.json], task_id=conversation_id, queue=self._site.queue,
                    expires=self._dice.uniform(0.1, EXPIRES_S),
                )  # fmt: skip
            except OperationalError:
                time.sleep(_LOOK_S)  # it may be in or not: the same id again is the same one
                continue
            self.plans[conversation_id] = plan
            self._under_way.append(conversation_id)
            return

    def _look(self) -> None:
        self._under_way = [each for each in self._under_way if not ended(self._site, each)]


def _all(count: int, *_: object) -> int:
    """However few there are."""
    return count


@contextmanager
def battlefield(
    directory: Path, nursery: Nursery, *, mixed: bool
) -> Iterator[tuple[Site, EmbeddedRedis, Proxy, Proxy]]:
    """Two workers that reach a persistent Redis through two proxies."""
    with EmbeddedRedis(directory / "redis", persistent=True) as server:
        path = str(server.socket_path)
        registry, broker = Proxy(path), Proxy(path)
        site = Site(
            directory,
            nursery,
            redis_url=server.url(),
            registry_url=registry.url(0),
            broker_url=broker.url(0),
            mixed=mixed,
        )
        try:
            sync_always(site.redis)
            site.fleet.await_ready()
            yield site, server, registry, broker
        finally:
            site.close()
            registry.close()
            broker.close()


def chaos(
    directory: Path,
    nursery: Nursery,
    *,
    seed: int,
    duration_s: float,
    every_s: float,
    weights: Mapping[str, int] = WEIGHTS,
    wide: bool = False,
) -> Report:
    """Strike for so long, let everything settle, and count.

    `wide`: conversations are revoked and expire as well, and every second worker differs from the
    first: an older version, a clock that is wrong, pool processes that are recycled all the time.
    """
    with battlefield(directory, nursery, mixed=wide) as (site, server, registry, broker):
        workload = Workload(site, random.Random(seed + 1), wide=wide)
        killer = Killer(
            site, server, registry, broker, random.Random(seed),
            weights={**weights, **(REVOCATIONS if wide else {})}, revoke=workload.revoke_one,
        )  # fmt: skip
        try:
            killer.strike_for(duration_s, every_s=every_s)
        finally:
            workload.stop()
        workload.await_end(SETTLE_S)
        return _report(seed, site, killer, workload)


def _report(seed: int, site: Site, killer: Killer, workload: Workload) -> Report:
    found = [
        flaw
        for conversation, plan in workload.plans.items()
        for flaw in flaws(
            site,
            conversation,
            plan.expected,
            was_ended=conversation in workload.ended_from_outside,
        )
    ]
    ran = site.records(event="ran")
    [*_, (silence_s, silent)] = silences(site)
    return Report(
        seed=seed,
        strikes=Counter(strike.kind for strike in killer.strikes),
        conversations=len(workload.plans),
        deliveries=len({record["message"] for record in ran}),
        runs=len(ran),
        flaws=found,
        resumed=resumptions(site, killer.strikes),
        silence_s=silence_s,
        gave_up=_gave_up(site),
        story=story(site, found[0].conversation if found else silent),
    )


def _gave_up(site: Site) -> list[str]:
    """What workers logged that ended without being told to.

    One whose pool process was killed before it was up is meant to: there is a supervisor.
    """
    return [
        line
        for line in site.fleet.logs().splitlines()
        if "Unrecoverable error" in line and "Could not start worker processes" not in line
    ]
