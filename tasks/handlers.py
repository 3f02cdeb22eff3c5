"""Execution of a handler, sync or async, within its time limit and with all errors caught.

Whatever a handler does, the result is actions for the planner. The details of an error, which its
caller does not get, go to the operators' log and to the conversation's log.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable
from types import FrameType
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from threadloom.config import TransientError, public
from threadloom.routing import HandlerResponse, Listener, RetryLater
from threadloom.routing.actions import Actions, Fault, Retry, read_return
from threadloom.routing.faults import handler_fault, timeout_fault
from threadloom.tasks.runtime import Runtime

logger = logging.getLogger(__name__)


def _tell_publicly(record: logging.LogRecord) -> bool:
    """Have a traceback in the log name modules as the organism file does."""
    if record.exc_info:
        record.exc_text = public("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return True


logger.addFilter(_tell_publicly)

#: characters of a traceback, or of a reason to retry, that the registry keeps; the end tells most
_TRACE_LIMIT = 4_000


class HandlerTimeout(BaseException):
    """Raised inside a handler that has exceeded its time limit.

    It is not an Exception, so that a handler's own `except Exception` does not swallow it.
    """


def run_handler(
    listener: Listener,
    payload: Any,
    meta: Any,
    runtime: Runtime,
    *,
    timeout_s: float,
    message_id: str,
) -> Actions | Retry:
    """Make one attempt and return its actions; every kind of failure becomes a Fault.

    A TransientError becomes a Retry; the caller decides whether another attempt is left.
    """
    try:
        with time_limit(timeout_s):
            returned = listener.handler(payload, meta)
            if type(returned) is not HandlerResponse and inspect.isawaitable(returned):
                returned = _await(returned, runtime, timeout_s)
    except (HandlerTimeout, SoftTimeLimitExceeded):
        runtime.discard_runner()
        logger.error(
            "handler.timeout listener=%s message_id=%s timeout_s=%s",
            listener.name, message_id, timeout_s,
        )  # fmt: skip
        note = f"the handler ran longer than {timeout_s} s"
        return (Fault(timeout_fault(), note, dead_letter=True),)
    except TransientError as exc:
        reason = told(traceback.format_exception_only(exc))
        logger.warning(
            "handler.retry listener=%s message_id=%s reason=%s", listener.name, message_id, reason
        )
        return Retry(reason, exc.after_s if isinstance(exc, RetryLater) else None)
    except (Exception, SystemExit, asyncio.CancelledError) as exc:
        if _pool_ends_process(exc):
            raise
        logger.exception("handler.failed listener=%s message_id=%s", listener.name, message_id)
        within = exc.__traceback__ and exc.__traceback__.tb_next  # the handler's own frames
        trace = told(traceback.format_exception(type(exc), exc, within))
        return (Fault(handler_fault(), trace, dead_letter=True),)
    return read_return(returned, system=listener.system)


def told(lines: Iterable[str]) -> str:
    """Return an exception's text in a storable form, of at most _TRACE_LIMIT characters.

    Modules bear their public names. A file name may carry bytes that are no text, which UTF-8
    refuses.
    """
    text = public("".join(lines)).strip()[-_TRACE_LIMIT:]
    return text.encode(errors="backslashreplace").decode()


def _pool_ends_process(exc: BaseException) -> bool:
    """Whether the pool ended this process by a signal: the attempt is then lost, not failed.

    billiard's signal handler exits with -(256 - signal number), a status that a handler's own
    `sys.exit()` is unlikely to use.
    """
    return (
        isinstance(exc, SystemExit)
        and isinstance(exc.code, int)
        and -256 < exc.code <= signal.NSIG - 256
    )


def _await(returned: Awaitable[Any], runtime: Runtime, timeout_s: float) -> Any:
    async def bounded() -> Any:
        try:
            async with asyncio.timeout(timeout_s) as scope:
                return await returned
        except TimeoutError:
            if scope.expired():
                raise HandlerTimeout from None
            raise  # a TimeoutError of the handler itself

    return runtime.runner.run(bounded())


class time_limit:  # noqa: N801  # used like a function
    """Raise HandlerTimeout in the body once `timeout_s` have passed.

    This uses an interval timer instead of Celery's soft limit, which the main process checks and
    which may interrupt after the handler, during the commit. Only a main thread receives signals;
    in other threads (thread pools) only the pool's hard limit applies.
    """

    __slots__ = ("_before", "_is_main", "_timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self._is_main:
            self._before = signal.signal(signal.SIGALRM, _strike)
            signal.setitimer(signal.ITIMER_REAL, self._timeout_s)

    def __exit__(self, *exc_info: object) -> None:
        if self._is_main:
            _disarm(self._before)


def _strike(_signal: int, _frame: FrameType | None) -> None:
    raise HandlerTimeout


def _disarm(before: Callable[[int, FrameType | None], Any] | int | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
