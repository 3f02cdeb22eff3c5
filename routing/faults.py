"""The two payloads that carry errors: `huh` to a sender who broke a contract, and `SystemError`.

Their texts go to other listeners and to whoever injected, so they say nothing about this
system's insides: the same text for "no such listener" and for "not allowed", and no listener's
name anywhere. Details belong to the operators' log.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from lxml import etree

from threadloom.routing.envelope import CORE_NAMESPACE
from threadloom.routing.payloads import ILLEGAL_CHARACTER, WireStyle, local_name, styled_payload

#: bytes of the original attempt that a `huh` gives back
MAX_ATTEMPT_BYTES = 4096
#: characters of an error text that quotes what arrived
MAX_ERROR_CHARS = 4096

Code = Literal["routing", "validation", "timeout", "handler", "limit", "killed"]


@styled_payload(WireStyle(tag="huh", namespace=CORE_NAMESPACE, dashed=True))
@dataclass(frozen=True)
class Huh:
    """A message was not understood: why, and how it began."""

    error: str
    original_attempt: bytes

    @classmethod
    def of(cls, error: str, attempt: object) -> Huh:
        """Return the diagnostic for a refused message, both parts cut to 4 KiB.

        `attempt` is what arrived: text, bytes, or a JSON value.
        """
        return cls(_as_text(error), _as_bytes(attempt)[:MAX_ATTEMPT_BYTES])


@styled_payload(WireStyle(dashed=True))
@dataclass(frozen=True)
class SystemError:
    """A message was not answered, for a reason that is not the sender's wording."""

    code: Code
    message: str
    retry_allowed: bool


def _as_text(message: str) -> str:
    """Return what XML can carry of a message that may quote anything."""
    text = ILLEGAL_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", message)
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[: MAX_ERROR_CHARS - 1]}…"


def _as_bytes(attempt: object) -> bytes:
    if isinstance(attempt, bytes):
        return attempt
    if isinstance(attempt, str):
        # Cut first, so that a huge text is not encoded whole; half a surrogate pair may be in it.
        return attempt[:MAX_ATTEMPT_BYTES].encode(errors="backslashreplace")
    try:
        return json.dumps(attempt, ensure_ascii=False, default=repr).encode(
            errors="backslashreplace"
        )
    except (TypeError, ValueError, RecursionError):  # keys of odd types, cycles, too deep
        return f"a {type(attempt).__name__} that JSON cannot carry".encode()


def routing_fault() -> SystemError:
    """The receiver does not exist or may not be called; which of the two is not said."""
    return SystemError("routing", "The message could not be delivered.", retry_allowed=False)


def validation_fault(message: str = "The message breaks its contract.") -> SystemError:
    """A payload broke its contract; `message` may say how to whoever wrote it."""
    return SystemError("validation", _as_text(message), retry_allowed=False)


def timeout_fault() -> SystemError:
    """No answer in time; the work may have been done."""
    return SystemError("timeout", "There was no answer in time.", retry_allowed=True)


def handler_fault(*, retry_allowed: bool = False) -> SystemError:
    """The handler raised, or returned something that is no response."""
    return SystemError("handler", "The message could not be processed.", retry_allowed)


def silent_fault() -> SystemError:
    """A branch that others wait for ended without a reply."""
    return SystemError("handler", "The message was not answered.", retry_allowed=False)


def limit_fault() -> SystemError:
    """The conversation went too deep, or made too many deliveries."""
    return SystemError("limit", "A limit of this conversation was reached.", retry_allowed=False)


def bytes_fault() -> SystemError:
    """The conversation would hold more bytes than it may."""
    text = "The conversation would hold more bytes than it may (max_conversation_bytes)."
    return SystemError("limit", text, retry_allowed=False)


def killed_fault() -> SystemError:
    """Somebody ended the conversation."""
    return SystemError("killed", "The conversation was ended.", retry_allowed=False)


def fault_text(element: etree._Element) -> str:
    """Return the text of a fault that stands as an element: a `huh`'s or a `SystemError`'s."""
    for child in element:
        if local_name(child) in ("error", "message"):
            return child.text or ""
    return ""
