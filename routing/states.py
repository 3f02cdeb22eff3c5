"""The closed sets of words that a registry stores, says and logs; one enum for each.

Every backend, and the Lua of the Redis one, takes its words from here.
"""

from __future__ import annotations

from enum import StrEnum


class ConversationStatus(StrEnum):
    """Where a conversation stands; the last three are final."""

    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    ERROR = "error"
    KILLED = "killed"

    @property
    def is_final(self) -> bool:
        """Whether the conversation has ended."""
        return self in (self.COMPLETED, self.ERROR, self.KILLED)


class DeliveryState(StrEnum):
    """Where a delivery stands. In flight are all but held, settled and cancelled ones."""

    #: created, and published only when its join releases it
    HELD = "held"
    #: a person's input is awaited, which will be its envelope
    WAITING = "waiting"
    #: in the outbox
    READY = "ready"
    #: on the broker, as far as is known
    SENT = "sent"
    #: a worker runs it
    LEASED = "leased"
    #: to be run again at its time
    POSTPONED = "postponed"
    SETTLED = "settled"
    #: never to be run: its branch was decided without it, or its conversation was killed
    CANCELLED = "cancelled"


class SkipReason(StrEnum):
    """Why there is nothing to run for a message."""

    #: the registry does not have its conversation or delivery
    UNKNOWN = "unknown"
    #: the conversation of this id is with another listener, or about another payload
    ANOTHER = "another"
    SETTLED = "settled"
    #: another worker runs it
    LEASED = "leased"
    POSTPONED = "postponed"
    CANCELLED = "cancelled"
    #: its conversation was killed
    ENDED = "ended"
    HELD = "held"
    WAITING = "waiting"


class Abandonment(StrEnum):
    """Why the attempt before this one ended without a commit."""

    NONE = ""
    #: its process or worker was lost
    LOST = "lost"
    #: it ran past the hard time limit
    TIMEOUT = "timeout"
    #: the handler asked for another attempt
    RETRY = "retry"


class LogEvent(StrEnum):
    """What a line of a conversation's log tells."""

    MESSAGE = "message"
    LATE = "late"
    WAITING = "waiting"
    NOTE = "note"
    JOIN = "join"
    ENDED = "ended"
    ABANDONED = "abandoned"
    RETRY = "retry"
    DEAD_LETTER = "dead_letter"
    REPLAYED = "replayed"


class ReleaseState(StrEnum):
    """How far the injector has been told how its conversation ended."""

    #: the conversation goes on
    PARKED = "parked"
    #: it has ended, and a message that says so is to be published
    DUE = "due"
    #: a worker is at it
    HANDING = "handing"
    DONE = "done"
