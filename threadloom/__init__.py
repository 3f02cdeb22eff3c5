"""Typed, durable calls between Celery workers: all that authors, senders and operators import.

A module of handlers says `from threadloom import HandlerMetadata, HandlerResponse, payload`; a
sender says `from threadloom import create_app, inject`; `celery -A threadloom worker` finds `app`.

Each name is loaded when it is first used. So a module of payloads loads neither Celery nor the
command line, and importing this package reads no file and no environment variable. `app` is
made at its first use, from the organism file that THREADLOOM_ORGANISM names.
"""

from __future__ import annotations

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from threadloom.config import (
        BrokerUnavailableError,
        ConfigurationError,
        PermanentError,
        RegistryUnavailableError,
        ThreadloomError,
        TransientError,
    )
    from threadloom.primitives import (
        BufferComplete,
        BufferDispatched,
        BufferError,
        BufferStart,
        SequenceComplete,
        SequenceError,
        SequenceStart,
    )
    from threadloom.routing import (
        XML,
        BufferItem,
        ContextSlot,
        ConversationError,
        HandlerMetadata,
        HandlerResponse,
        Huh,
        IdTakenError,
        InvalidEnvelopeError,
        InvalidPayloadError,
        PayloadDefinitionError,
        RetryLater,
        SystemError,
        UnknownConversationError,
        UnknownResultsError,
        UnknownThreadError,
        payload,
    )
    from threadloom.tasks import (
        ReplayRefusedError,
        answer_wait,
        attach,
        create_app,
        dead_letters,
        drop_dead_letter,
        find_dead_letter,
        inject,
        inject_many,
        kill,
        read_results,
        replay_dead_letter,
    )

    app: _typing.Any

__all__ = [
    "XML",
    "BrokerUnavailableError",
    "BufferComplete",
    "BufferDispatched",
    "BufferError",
    "BufferItem",
    "BufferStart",
    "ConfigurationError",
    "ContextSlot",
    "ConversationError",
    "HandlerMetadata",
    "HandlerResponse",
    "Huh",
    "IdTakenError",
    "InvalidEnvelopeError",
    "InvalidPayloadError",
    "PayloadDefinitionError",
    "PermanentError",
    "RegistryUnavailableError",
    "ReplayRefusedError",
    "RetryLater",
    "SequenceComplete",
    "SequenceError",
    "SequenceStart",
    "SystemError",
    "ThreadloomError",
    "TransientError",
    "UnknownConversationError",
    "UnknownResultsError",
    "UnknownThreadError",
    "answer_wait",
    "attach",
    "create_app",
    "dead_letters",
    "drop_dead_letter",
    "find_dead_letter",
    "inject",
    "inject_many",
    "kill",
    "payload",
    "read_results",
    "replay_dead_letter",
]

#: which package each name comes from; a test holds this list, `__all__` and the imports above alike
_HOMES = {
    "config": (
        "BrokerUnavailableError ConfigurationError PermanentError RegistryUnavailableError "
        "ThreadloomError TransientError"
    ),
    "primitives": (
        "BufferComplete BufferDispatched BufferError BufferStart "
        "SequenceComplete SequenceError SequenceStart"
    ),
    "routing": (
        "XML BufferItem ContextSlot ConversationError HandlerMetadata HandlerResponse Huh "
        "IdTakenError "
        "InvalidEnvelopeError InvalidPayloadError PayloadDefinitionError RetryLater SystemError "
        "UnknownConversationError UnknownResultsError UnknownThreadError payload"
    ),
    "tasks": (
        "ReplayRefusedError answer_wait attach create_app dead_letters drop_dead_letter "
        "find_dead_letter inject inject_many kill read_results replay_dead_letter"
    ),
}


def __getattr__(name: str) -> _typing.Any:
    if name == "app":
        from threadloom.tasks import app_of_this_process

        found = app_of_this_process()
    else:
        home = next((home for home, names in _HOMES.items() if name in names.split()), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(_importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
