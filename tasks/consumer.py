"""Celery's consumer, outliving a broker that goes away while messages are unacknowledged.

Closing a connection, kombu's Redis transport puts back what was not acknowledged, over a new
connection. While the broker is away that fails, in Celery 5.7 with an AttributeError (the
transport has forgotten its connection by then), which Celery takes for unrecoverable: the
worker ends, and with it what its pool is running. There is nothing to put back here that the
registry does not publish again.
"""

from __future__ import annotations

import logging

from celery.worker.consumer import Consumer

logger = logging.getLogger(__name__)


class PatientConsumer(Consumer):
    """Reconnects whatever closing the broken connection brings up."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as failure:  # whatever it is, the connection is gone and a new one comes
            logger.warning("broker.close_failed reason=%r after=%r", failure, exc)
