"""How handlers of test organisms record events: one JSON line per event, appended atomically."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from threadloom.routing import HandlerMetadata


def record(meta: HandlerMetadata, event: str, **fields: Any) -> None:
    """Append one line to the file that the test named; lines of several processes do not mix."""
    append(
        event=event,
        thread=meta.thread_id,
        **{"from": meta.from_id},
        own_name=meta.own_name,
        self_call=meta.is_self_call,
        message=meta.message_id,
        **fields,
    )


def append(**fields: Any) -> None:
    """Append one line with these fields, the process id and the time; plain tasks use it, too."""
    line = {"pid": os.getpid(), "at": time.clock_gettime(time.CLOCK_REALTIME), **fields}
    descriptor = os.open(
        os.environ["THREADLOOM_TEST_RECORDS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
    )
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)
