"""One conversation in memory: its row, its threads, its outbox and its end.

As `lua/lib/conversation.lua`, `ending.lua`, `outbox.lua` and `threads.lua` keep them in Redis.
Each function of a conversation, here and in the modules beside, does what the one of its name
does in Lua, so that the two can be read side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from threadloom.routing.backends import codec
from threadloom.routing.backends.memory.stored import SharedLists, StoredDelivery, StoredJoin
from threadloom.routing.records import Delivery, Ending, Opening, Publication, Thread
from threadloom.routing.states import ConversationStatus, DeliveryState, LogEvent, ReleaseState


class ConversationCore:
    """What everything else of one conversation builds on; `shared` is of all of them."""

    def __init__(self, conversation_id: str, *, shared: SharedLists, grace_ms: int) -> None:
        self.id = conversation_id
        #: None while only threads of it are known
        self.opening: Opening | None = None
        self.status = ConversationStatus.RUNNING
        self.value: Mapping[str, Any] | None = None
        self.in_flight = self.waiting = self.count = 0
        self.created_ms = self.updated_ms = 0
        #: when its retention is over; while it owes an answer: when it has grown too old
        self.over_ms = 0
        #: whether it has grown too old
        self.aged = False
        #: parked, due, handing or done
        self.release = ReleaseState.PARKED
        #: who is handing its ending over
        self.teller = ""
        self.handed = 0
        self.deliveries: dict[str, StoredDelivery] = {}
        self.threads: dict[str, Thread] = {}
        self.children: dict[str, dict[str, str]] = {}
        self.joins: dict[str, StoredJoin] = {}
        #: the delivery that a turn has come to, by the one that it began with
        self.turns: dict[str, str] = {}
        #: stored lists, each with its items by index
        self.items: dict[str, dict[int, bytes]] = {}
        #: the open joins by kind and label
        self.labels: dict[tuple[str, str], str] = {}
        self.log: list[tuple[int, LogEvent, str]] = []
        #: the slots of each thread: ids of deliveries
        self.slots: dict[str, list[str]] = {}
        #: ms since 1970, set when an operation starts
        self.now = 0
        #: what the operation that runs has put into the outbox
        self.publish: list[Delivery] = []
        self._due, self._sent, self._dead = shared.due, shared.sent, shared.dead
        self._grace_ms = grace_ms

    def member(self, kind: str, thing: str) -> str:
        return codec.due_member(kind, self.id, thing)

    def set_due(self, kind: str, thing: str, at_ms: int) -> None:
        self._due[self.member(kind, thing)] = at_ms

    def not_due(self, kind: str, thing: str) -> None:
        self._due.pop(self.member(kind, thing), None)

    def due_at(self, kind: str, thing: str) -> int:
        return self._due.get(self.member(kind, thing), 0)

    def note(self, event: LogEvent, detail: str) -> None:
        self.log.append((self.now, event, detail))

    def touch(self, ttl_ms: int) -> None:
        self.updated_ms = self.now
        if not self.owes:
            self.over_ms = self.now + ttl_ms

    @property
    def is_final(self) -> bool:
        return self.status.is_final

    @property
    def owes(self) -> bool:
        """Whether somebody still waits for something of it. Of a killed one nothing runs."""
        under_way = self.in_flight > 0 and self.status is not ConversationStatus.KILLED
        told = self.is_final and self.release == ReleaseState.DONE
        return self.opening is not None and (not told or under_way)

    @property
    def entry(self) -> Delivery:
        assert self.opening is not None
        return self.opening.entry

    @property
    def ending(self) -> Ending:
        return Ending(self.status, self.value)

    def publications(self) -> tuple[Publication, ...]:
        return tuple(Publication.of(self.id, delivery) for delivery in self.publish)

    def resume(self) -> Publication:
        """The message that lets the injector's canvas go on."""
        assert self.opening is not None
        return Publication.of(self.id, self.entry, self.opening.canvas)

    def adopt(self, parent_id: str, name: str, child_id: str) -> None:
        self.children.setdefault(parent_id, {})[name] = child_id

    def drop_thread(self, thread_id: str) -> bool:
        thread = self.threads.pop(thread_id, None)
        if thread is None:
            return False
        self.children.pop(thread_id, None)
        siblings = self.children.get(thread.parent_id or "", {})
        if siblings.get(thread.chain[-1]) == thread_id:
            del siblings[thread.chain[-1]]
        return True

    def make_ready(self, stored: StoredDelivery, attempt: int, reason: str) -> None:
        stored.set(DeliveryState.READY, attempt=attempt, reason=reason)
        self.set_due("d", stored.row.id, self.now + self._grace_ms)
        self.publish.append(stored.delivery)

    def launch(self, stored: StoredDelivery) -> None:
        self.in_flight += 1
        self.make_ready(stored, 0, "")

    def launch_refill(self, stored: StoredDelivery) -> None:
        """Launch what brings a join more branches, before all else, so that a turn goes on with it.

        In the queue it would stand behind the messages of all lanes, and these would run out of
        branches meanwhile.
        """
        self.launch(stored)
        self.publish.insert(0, self.publish.pop())

    def sent(self, stored: StoredDelivery) -> None:
        stored.set(DeliveryState.SENT, attempt=stored.attempt, reason=stored.reason)
        self.not_due("d", stored.row.id)
        self._sent[self.member("d", stored.row.id)] = self.now

    def finish(self, ending: Ending) -> bool:
        if self.is_final:
            return False
        self.status, self.value = ending.status, ending.value
        self.note(LogEvent.ENDED, ending.status)
        if self.release == ReleaseState.PARKED:
            self.release = ReleaseState.DUE
            self.set_due("r", "", self.now + self._grace_ms)
        return True

    def landed(self) -> None:
        self.in_flight -= 1
        if self.in_flight <= 0:
            self.finish(Ending(ConversationStatus.COMPLETED, None))
