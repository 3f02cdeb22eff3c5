"""Messages that a broker has lost: which these are, decided for each queue by itself.

A message that no worker has begun may still be queued, or be lost: the broker restarted without
its messages, the queue was purged, or a worker was killed while it held the message. It counts as
lost if its queue is empty in two looks, or if a message of that queue that was published later
was received before it. A busy worker may have reserved it instead; then the copy gives it to an
idle worker, and the worker that begins it second skips it.

All ages are differences between times of the registry's clock. Each copy of a message doubles the
age from which it counts as lost again, so that a wrong guess makes few copies.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest

from threadloom.routing.records import Due
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.runtime import Runtime
from threadloom.tasks.unfailing import attempted

logger = logging.getLogger(__name__)

#: ms after which a published message that no worker has begun is looked for in the broker
LOST_AFTER_MS = 3_000
#: ms by which a later message must have overtaken one that counts as lost: a batch is published
#: some time after it was stored
OVERTAKEN_BY_MS = 2_000
#: most messages looked at for one age, beside those that are known to wait in other queues
_PAGE = 200
#: s after which the sweep looks at no further message: with a broker that is connected but silent,
#: each publishing blocks the worker for seconds
_BUDGET_S = 1.0


def by_turns(items: Iterable[Due]) -> Iterator[Due]:
    """The items, one of each conversation at a time, so that none keeps the others waiting."""
    groups: dict[str, list[Due]] = {}
    for item in items:
        groups.setdefault(item.conversation_id, []).append(item)
    rounds = zip_longest(*groups.values())
    return (item for item in chain.from_iterable(rounds) if item is not None)


def republish_lost(runtime: Runtime, publisher: Publisher) -> int:
    """Publish again the messages that the broker has lost; return how many."""
    before, runtime.unbegun.empty = runtime.unbegun.empty, set()
    if not runtime.backend.unbegun(older_than_ms=LOST_AFTER_MS, limit=1):
        return 0
    found = publisher.empty_queues()
    if found is None:
        return 0
    runtime.unbegun.empty = found
    empty = found & before  # the last message may be on its way to a worker, which then reports it
    until = time.monotonic() + _BUDGET_S
    by_age: dict[int, set[str]] = {}
    for queue in runtime.organism.queues:
        after_ms = LOST_AFTER_MS if queue in empty else _overtaken_after_ms(runtime, queue)
        if after_ms is not None:
            by_age.setdefault(after_ms, set()).add(queue)
    published = sum(
        _republish(runtime, publisher, after_ms, queues, until)
        for after_ms, queues in sorted(by_age.items())
    )
    runtime.unbegun.forget_oldest()
    return published


def _overtaken_after_ms(runtime: Runtime, queue: str) -> int | None:
    """Return the age in ms from which an unbegun message in a busy queue counts as overtaken.

    None if this is unknown: this worker has received nothing from the queue, or later messages
    may pass because of their priority.
    """
    come_to_ms = runtime.arrivals.newest_ms(queue)
    if runtime.organism.depth_first or come_to_ms is None:
        return None
    return max(LOST_AFTER_MS, runtime.registry_ms() - come_to_ms + OVERTAKEN_BY_MS)


def _republish(
    runtime: Runtime, publisher: Publisher, after_ms: int, queues: set[str], until: float
) -> int:
    """Publish again the messages of these queues that are older than `after_ms`."""
    known, published = runtime.unbegun, 0
    # What waits in other queues is older, perhaps, and is found first each time.
    found = runtime.backend.unbegun(older_than_ms=after_ms, limit=_PAGE + len(known.targets))
    targets = known.resolve(found, runtime.backend)

    def republish(due: Due) -> None:
        nonlocal published
        older_than_ms = known.lost_after_ms(due.member, after_ms)
        publication = runtime.backend.republish(due, older_than_ms=older_than_ms)
        if publication is None:
            return
        copies = known.copies[due.member] = known.copies.get(due.member, 0) + 1
        logger.warning(
            "sweep.republished message_id=%s to=%s copies=%d",
            publication.id, publication.to, copies,
        )  # fmt: skip
        published += publisher.publish([publication])

    for due in by_turns(found):
        to = targets.get(due.member)
        if to is None or runtime.organism.queue_of(to) in queues:
            attempted(republish, due)
        if time.monotonic() > until:
            break
    return published
