"""Task events in batches, so that monitoring by Flower costs a hop next to nothing.

Celery's event loop flushes buffered task events in each of its iterations. On a quiet worker this
is a broker round trip in the main process for each task received and for each task ended, which
takes as long as all other work of the main process for that task. Flower redraws once a second.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

#: longest time in seconds that a task event is buffered
BATCH_S = 0.1
#: number of buffered events at which they are sent at once
BATCH_SIZE = 200


class EventBatches(bootsteps.StartStopStep):
    """Makes the worker's event dispatcher flush by a timer."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        if dispatcher is None or not dispatcher.buffer_group:
            return  # without an event loop, Celery does not buffer events
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
