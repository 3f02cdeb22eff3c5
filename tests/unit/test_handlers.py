"""A handler's time limit, and the event loop that async handlers share with their clients."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
from celery.exceptions import WorkerShutdown, WorkerTerminate

from threadloom.routing import HandlerResponse, Listener, Organism
from threadloom.routing.actions import Actions, Fault
from threadloom.routing.backends import MemoryBackend
from threadloom.tasks.handlers import ends_process, run_handler
from threadloom.tasks.runtime import Runtime

RUNTIME = Runtime(Organism("o", {}), MemoryBackend(organism="o"))


class Client:
    """A client as libraries make them: its task and its futures belong to one event loop."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[asyncio.Future[int]] | None = None
        self._task: asyncio.Task[None] | None = None

    async def ask(self) -> int:
        if self._asked is None:
            self._asked = asyncio.Queue()
            self._task = asyncio.create_task(self._serve(self._asked))
        future = asyncio.get_running_loop().create_future()
        await self._asked.put(future)
        return await asyncio.wait_for(future, 5)

    async def _serve(self, asked: asyncio.Queue[asyncio.Future[int]]) -> None:
        served = 0
        while True:
            future = await asked.get()
            served += 1
            future.set_result(served)


def run(handler: Any, *, timeout_s: float) -> Actions:
    listener = Listener("l", handler, {}, "")
    ran = run_handler(listener, None, None, RUNTIME, timeout_s=timeout_s, message_id="m")
    assert isinstance(ran, tuple)
    return ran


async def _sleeps(*_: Any) -> None:
    await asyncio.sleep(60)


async def _blocks(*_: Any) -> None:
    time.sleep(60)


async def _blocks_in_a_task_of_its_own(*_: Any) -> None:
    await asyncio.create_task(_blocks())


async def _swallows_its_cancellation(*_: Any) -> None:
    for _attempt in range(3):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


async def _is_never_idle(*_: Any) -> None:
    while True:
        await asyncio.sleep(0)


def _is_no_coroutine(*_: Any) -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    "slow",
    [
        _sleeps,
        _blocks,
        _blocks_in_a_task_of_its_own,
        _swallows_its_cancellation,
        _is_never_idle,
        _is_no_coroutine,
    ],
)
def test_a_time_out_leaves_the_event_loop_to_the_others(slow: Any) -> None:
    """A handler that overruns in any way ends as a time-out, and a client made before it still
    works.
    """
    client = Client()
    answers: list[int] = []

    async def asks(*_: Any) -> HandlerResponse:
        answers.append(await client.ask())
        return HandlerResponse(None, prompt="?")

    assert not isinstance(run(asks, timeout_s=10)[0], Fault)
    [fault] = run(slow, timeout_s=0.05)
    assert isinstance(fault, Fault)
    assert fault.payload.code == "timeout"
    assert not isinstance(run(asks, timeout_s=10)[0], Fault)
    assert answers == [1, 2]


class Panic(BaseException):
    """As the extension modules of Rust raise it: pyo3's PanicException is no Exception."""


#: what no `except Exception` catches
FATAL = [
    Panic("called `Option::unwrap()` on a `None` value"),
    BaseExceptionGroup("two", [Panic(), ValueError()]),
    KeyboardInterrupt(),
    SystemExit(1),
    GeneratorExit(),
    asyncio.CancelledError(),
]


class Odd(list[Any]):
    """A return value whose own code fails."""

    def __iter__(self) -> Any:
        raise Panic


@pytest.mark.parametrize("fatal", FATAL, ids=lambda fatal: type(fatal).__name__)
@pytest.mark.parametrize("way", ["plain", "async", "in a task"])
def test_what_is_no_exception_is_a_fault_like_any_other(way: str, fatal: BaseException) -> None:
    """The caller gets the general text, the operators the traceback; the next handler is spared.

    An exception that leaves the handler would end the process: the delivery would run again, and
    its injector would be told the raw text at once.
    """

    def fails(*_: Any) -> None:
        raise fatal

    async def fails_async(*_: Any) -> None:
        raise fatal

    async def fails_in_a_task(*_: Any) -> None:
        await asyncio.create_task(fails_async())

    handler = {"plain": fails, "async": fails_async, "in a task": fails_in_a_task}[way]
    [fault] = run(handler, timeout_s=10)
    assert isinstance(fault, Fault)
    assert (fault.payload.code, fault.dead_letter) == ("handler", True)
    assert type(fatal).__name__ in fault.note
    assert str(fatal) not in fault.payload.message or not str(fatal)
    assert not isinstance(run(_waits_a_moment, timeout_s=10)[0], Fault)


async def _waits_a_moment(*_: Any) -> HandlerResponse:
    await asyncio.sleep(0)
    return HandlerResponse(None, prompt="?")


def test_what_a_task_left_behind_raises_harms_no_other_handler() -> None:
    """A handler leaves a task that exits while the next handler waits: that one goes on."""

    async def exits() -> None:
        raise SystemExit(1)

    async def leaves_it(*_: Any) -> HandlerResponse:
        asyncio.get_running_loop().call_soon(lambda: left.append(asyncio.create_task(exits())))
        return HandlerResponse(None, prompt="?")

    left: list[asyncio.Task[None]] = []
    assert not isinstance(run(leaves_it, timeout_s=10)[0], Fault)
    assert not isinstance(run(_waits_a_moment, timeout_s=10)[0], Fault)
    assert not isinstance(run(_waits_a_moment, timeout_s=10)[0], Fault)
    assert isinstance(left[0].exception(), SystemExit)


def test_a_time_out_in_a_group_of_tasks_is_a_time_out() -> None:
    """A TaskGroup wraps what ended its task in a BaseExceptionGroup."""

    async def groups(*_: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_blocks())

    [fault] = run(groups, timeout_s=0.05)
    assert isinstance(fault, Fault)
    assert fault.payload.code == "timeout"


def test_a_return_value_whose_own_code_fails_is_a_fault() -> None:
    """Reading it is part of the attempt."""
    [fault] = run(lambda *_: Odd([1]), timeout_s=10)
    assert isinstance(fault, Fault)
    assert "Panic" in fault.note


def test_what_ends_the_process_is_no_failure_of_the_handler() -> None:
    """The pool's signal handler and a worker's shutdown raise these; the attempt is then lost."""
    for fatal in (SystemExit(signal.SIGTERM - 256), WorkerTerminate(1), WorkerShutdown(0)):
        assert ends_process(fatal)

        def ended(*_: Any, fatal: BaseException = fatal) -> None:
            raise fatal

        with pytest.raises(type(fatal)):
            run(ended, timeout_s=10)
    assert not ends_process(SystemExit(3))
