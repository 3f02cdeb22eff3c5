"""A handler's time limit, and the event loop that async handlers share with their clients."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from threadloom.routing import HandlerResponse, Listener, Organism
from threadloom.routing.actions import Actions, Fault
from threadloom.routing.backends import MemoryBackend
from threadloom.tasks.handlers import run_handler
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
