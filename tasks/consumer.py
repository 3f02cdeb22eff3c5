"""Celery's consumer, outliving a broker that goes away while messages are unacknowledged.

Closing a connection, kombu's Redis transport puts back what was not acknowledged, over a new
connection. While the broker is away that fails, in Celery 5.7 with an AttributeError (the
transport has forgotten its connection by then), which Celery takes for unrecoverable: the
worker ends, and with it what its pool is running. There is nothing to put back here that the
registry does not publish again.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

logger = logging.getLogger(__name__)


class PatientConsumer(bootsteps.StartStopStep):
    """Has the worker's consumer reconnect whatever closing the broken connection brings up."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        close_and_wait = consumer.on_connection_error_after_connected

        def close_patiently(exc: Exception) -> None:
            try:
                close_and_wait(exc)
            except Exception as failure:  # whatever it is, the connection is gone, a new one comes
                logger.warning("broker.close_failed reason=%r after=%r", failure, exc)

        consumer.on_connection_error_after_connected = close_patiently
