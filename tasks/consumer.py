"""A bootstep that keeps a worker alive when its broker goes away with messages unacknowledged.

When kombu's Redis transport closes a connection, it requeues the unacknowledged messages over a
new connection. While the broker is away this fails, in Celery 5.7 with an AttributeError, because
the transport has dropped its connection by then. Celery treats that error as unrecoverable, and
the worker ends together with the handlers that its pool is running. Requeueing is not needed for
listeners' messages: the registry publishes them again.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

logger = logging.getLogger(__name__)


class PatientConsumer(bootsteps.StartStopStep):
    """Makes the worker's consumer reconnect even if closing the broken connection fails."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        close_and_wait = consumer.on_connection_error_after_connected

        def close_patiently(exc: Exception) -> None:
            try:
                close_and_wait(exc)
            except Exception as failure:  # the connection is gone anyway, and a new one is opened
                logger.warning("broker.close_failed reason=%r after=%r", failure, exc)

        consumer.on_connection_error_after_connected = close_patiently
