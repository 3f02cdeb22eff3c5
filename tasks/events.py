"""Task events in batches, so that being watched costs a hop next to nothing.

Celery's event loop flushes buffered task events as soon as it comes round, which on a quiet
worker is a broker round trip in the main process for each task that is received and for each
that ends: as long as all else the main process does for it. Flower draws once a second.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

#: seconds that a task event waits for others at most
BATCH_S = 0.1
#: events sent at once at the latest
BATCH_SIZE = 200


class EventBatches(bootsteps.StartStopStep):
    """Has the worker's event dispatcher flush by a timer."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        if dispatcher is None or not dispatcher.buffer_group:
            return  # no event loop here: Celery does not buffer then
        scheduled: list[Any] = []

        def flush() -> None:
            scheduled.clear()
            dispatcher.flush()

        def flush_soon() -> None:
            if not scheduled:
                scheduled.append(consumer.timer.call_after(BATCH_S, flush))

        dispatcher.buffer_limit = BATCH_SIZE
        dispatcher.on_send_buffered = flush_soon

    def stop(self, consumer: Any) -> None:
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()
