"""The errors routing adds to the tree of `config.errors`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from threadloom.config import PermanentError, TransientError


class PayloadDefinitionError(PermanentError):
    """A class marked `@payload` that cannot be one, such as one with a type without wire form."""

    def __init__(self, class_name: str, reason: str) -> None:
        super().__init__(class_name, reason)
        self.class_name, self.reason = class_name, reason

    def __str__(self) -> str:
        return f"{self.class_name} cannot be a payload: {self.reason}"


class InvalidPayloadError(PermanentError):
    """A value that breaks its payload contract; `faults` lists every reason."""

    def __init__(self, payload_name: str, faults: Sequence[str]) -> None:
        super().__init__(payload_name, list(faults))
        self.payload_name, self.faults = payload_name, tuple(faults)

    def __str__(self) -> str:
        return f"{self.payload_name}: {'; '.join(self.faults)}"


class InvalidEnvelopeError(PermanentError):
    """Text refused by ingress; `step` names the step that refused it, `faults` say why."""

    def __init__(self, step: str, faults: Sequence[str]) -> None:
        super().__init__(step, list(faults))
        self.step, self.faults = step, tuple(faults)

    def __str__(self) -> str:
        return f"{self.step}: {'; '.join(self.faults)}"


class RegistryFormatError(PermanentError):
    """A registry in a format that this version of Threadloom cannot read; another one wrote it."""

    def __init__(self, registry: str, found: int, expected: int) -> None:
        super().__init__(registry, found, expected)
        self.registry, self.found, self.expected = registry, found, expected

    def __str__(self) -> str:
        which = "a newer" if self.found > self.expected else "an older"
        return (
            f"the registry {self.registry} is in format {self.found}, written by {which} version "
            f"of Threadloom; this one reads format {self.expected}. Start the version that wrote "
            "it, or let its conversations end and give the organism another `backend.redis_prefix`"
        )


class UnknownThreadError(PermanentError):
    """A thread id that the conversation does not know: never issued, cleaned up, or expired."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(thread_id)
        self.thread_id = thread_id

    def __str__(self) -> str:
        return f"no thread {self.thread_id} in this conversation"


class UnknownConversationError(PermanentError):
    """A conversation the registry does not hold: never injected, or its retention is over."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(conversation_id)
        self.conversation_id = conversation_id

    def __str__(self) -> str:
        return f"no conversation {self.conversation_id}"


class IdTakenError(PermanentError):
    """A conversation's id that stands for another listener or payload already."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(conversation_id)
        self.conversation_id = conversation_id

    def __str__(self) -> str:
        return (
            f"the id {self.conversation_id} belongs to a conversation with another listener or "
            "about another payload; an id stands for one of them, so take a new one"
        )


class UnknownResultsError(PermanentError):
    """A reference to a buffer's results that this conversation does not hold."""

    def __init__(self, reference: str) -> None:
        super().__init__(reference)
        self.reference = reference

    def __str__(self) -> str:
        return f"no results {self.reference!r} in this conversation"


class ConversationError(PermanentError):
    """A conversation that ended with a fault, as whoever injected it sees it.

    The text is generic; what went wrong inside is in the conversation's log.
    """

    def __init__(self, code: str, message: str, retry_allowed: bool = False) -> None:
        super().__init__(code, message, retry_allowed)
        self.code, self.message, self.retry_allowed = code, message, retry_allowed

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class RetryLater(TransientError):  # noqa: N818  # reads as what a handler asks for
    """Raised by a handler whose delivery may succeed later: it runs again after a backoff.

    `after_s` seconds from now, or the listener's `retry_backoff`, doubled with each failure.
    After the listener's `max_retries` further runs the delivery goes to the dead letters, and
    the caller gets the error. Any other TransientError a handler raises counts as the same.
    """

    def __init__(self, reason: str = "", after_s: float | None = None) -> None:
        if after_s is not None and not 0 <= after_s < math.inf:
            raise ValueError(f"after_s must be at least 0 seconds, got {after_s}")
        super().__init__(reason, after_s)
        self.reason, self.after_s = reason, after_s

    def __str__(self) -> str:
        return self.reason or "the handler asked for another run"
