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
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from types import FrameType
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate

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
        with time_limit(timeout_s) as limit:
            returned = listener.handler(payload, meta)
            if type(returned) is not HandlerResponse and inspect.isawaitable(returned):
                returned = _await(returned, runtime, limit)
            return read_return(returned, system=listener.system)
    except TransientError as exc:
        reason = told(traceback.format_exception_only(exc))
        logger.warning(
            "handler.retry listener=%s message_id=%s reason=%s", listener.name, message_id, reason
        )
        return Retry(reason, exc.after_s if isinstance(exc, RetryLater) else None)
    except BaseException as exc:
        if not _is_timeout(exc):
            return crash(exc, listener.name, message_id)
        logger.error(
            "handler.timeout listener=%s message_id=%s timeout_s=%s",
            listener.name, message_id, timeout_s,
        )  # fmt: skip
        note = f"the handler ran longer than {timeout_s} s"
        return (Fault(timeout_fault(), note, dead_letter=True),)


def crash(
    exc: BaseException, listener: str, message_id: str, *, dead_letter: bool = True
) -> Actions:
    """Return the actions for what an organism's code has raised; call it where that is caught.

    It may be no Exception, such as the panic of an extension in Rust. Celery's tracer would take
    that for the end of the process: the delivery would be repeated, and its raw text be told.
    What really ends the process is raised again.
    """
    if ends_process(exc):
        raise exc
    logger.error("handler.failed listener=%s message_id=%s", listener, message_id, exc_info=exc)
    within = exc.__traceback__ and exc.__traceback__.tb_next  # the organism's own frames
    trace = told(traceback.format_exception(type(exc), exc, within))
    return (Fault(handler_fault(), trace, dead_letter=dead_letter),)


def _is_timeout(exc: BaseException) -> bool:
    """Whether the time limit ended the handler; a TaskGroup raises a group of what its tasks do."""
    if isinstance(exc, BaseExceptionGroup):
        return any(_is_timeout(each) for each in exc.exceptions)
    return isinstance(exc, HandlerTimeout | SoftTimeLimitExceeded)


def told(lines: Iterable[str]) -> str:
    """Return an exception's text in a storable form, of at most _TRACE_LIMIT characters.

    Modules bear their public names. A file name may carry bytes that are no text, which UTF-8
    refuses.
    """
    text = public("".join(lines)).strip()[-_TRACE_LIMIT:]
    return text.encode(errors="backslashreplace").decode()


def ends_process(exc: BaseException) -> bool:
    """Whether the pool or the worker ended this process: the attempt is then lost, not failed.

    billiard's signal handler exits with -(256 - signal number), a status that a handler's own
    `sys.exit()` is unlikely to use.
    """
    if isinstance(exc, WorkerShutdown | WorkerTerminate):
        return True
    return (
        isinstance(exc, SystemExit)
        and isinstance(exc.code, int)
        and -256 < exc.code <= signal.NSIG - 256
    )


def _await(returned: Awaitable[Any], runtime: Runtime, limit: time_limit) -> Any:
    """Run a coroutine on this thread's event loop, which outlives it whatever it does."""

    async def bounded() -> Any:
        try:
            async with asyncio.timeout(limit.left_s) as scope:
                value = await returned
        except (TimeoutError, asyncio.CancelledError):
            if not scope.expired():
                raise  # the handler's own
        if scope.expired():  # perhaps it has caught its cancellation and gone on
            raise HandlerTimeout
        return value

    loop = runtime.runner.get_loop()
    task = limit.task = loop.create_task(bounded())
    limit.spare_the_loop(loop)
    while True:
        try:
            return loop.run_until_complete(task)
        except BaseException as exc:
            if task.done() or ends_process(exc):
                raise
            # A SystemExit or KeyboardInterrupt of any task stops the loop. If it is of a task that
            # this handler waits for, it is raised there as well; else it is none of this handler's.
            logger.warning("loop.stopped_by_task reason=%r", exc)


#: seconds that a coroutine has to end after it was cancelled, until it is interrupted by force;
#: and from each interruption to the next one
_FORCE_AFTER_S = 0.25


class time_limit:  # noqa: N801  # used like a function
    """Raise HandlerTimeout in the body once `timeout_s` have passed.

    This uses an interval timer instead of Celery's soft limit, which the main process checks and
    which may interrupt after the handler, during the commit. Only a main thread receives signals;
    in other threads (thread pools) only the pool's hard limit applies.
    """

    __slots__ = ("_before", "_is_main", "_until", "task")

    def __init__(self, timeout_s: float) -> None:
        self._until = time.monotonic() + timeout_s
        self._is_main = threading.current_thread() is threading.main_thread()
        #: the handler's task, once there is one
        self.task: asyncio.Task[Any] | None = None

    @property
    def left_s(self) -> float:
        """Seconds until the limit; at least a moment, since a timer of 0 s would never strike."""
        return max(0.000_1, self._until - time.monotonic())

    def __enter__(self) -> time_limit:
        if self._is_main:
            self._before = signal.signal(signal.SIGALRM, _strike)
            signal.setitimer(signal.ITIMER_REAL, self.left_s)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._is_main:
            _disarm(self._before)

    def spare_the_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on interrupt what the loop's tasks do, never the loop itself.

        Clients and other tasks live in that loop, and an exception in the middle of its own work
        would lose a callback of theirs. In a task's code it ends only that task. So the handler's
        task is first cancelled (by `asyncio.timeout`), then interrupted if its code does not give
        the loop back; what else keeps the loop busy is interrupted last.
        """
        if not self._is_main:
            return
        strikes = 0

        def strike(_signal: int, _frame: FrameType | None) -> None:
            nonlocal strikes
            strikes += 1
            running = asyncio.current_task(loop)
            if running is not None and (running is self.task or strikes > 1):
                raise HandlerTimeout
            if running is None and self.task is not None:  # it went on after its cancellation
                loop.call_soon_threadsafe(self.task.cancel)

        signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, self.left_s + _FORCE_AFTER_S, _FORCE_AFTER_S)


def _strike(_signal: int, _frame: FrameType | None) -> None:
    raise HandlerTimeout


def _disarm(before: Callable[[int, FrameType | None], Any] | int | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
