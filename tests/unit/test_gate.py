"""The rules of the gate, on plain data, and the bound of decompression."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from celery import chord, group, signature
from celery.app.task import Context

from threadloom.routing.gate import (
    body_fault,
    custom_headers,
    excerpt_of,
    id_fault,
    task_fault,
    too_deep,
)
from threadloom.routing.records import Due
from threadloom.tasks.canvas import RESERVED, canvas_options, resume_options
from threadloom.tasks.inflation import InflationError, check_inflation
from threadloom.tasks.lost import by_turns

MIB = 1 << 20
GOOD: dict[str, Any] = {
    "id": "order 7/é", "task": "echo", "lang": "py", "timelimit": [None, 5], "eta": None,
    "retries": 0, "root_id": "r", "shadow": None, "argsrepr": "(…)", "ignore_result": False,
    "stamped_headers": None, "traceparent": "00-1-2-01", "headers": {"sentry-trace": "x"},
}  # fmt: skip


@pytest.mark.parametrize(
    "value", ["", "x" * 256, "é" * 128, "\ud800", "a\nb", "\0", None, 7, ["x"]]
)
def test_no_id(value: object) -> None:
    """What no key, property or log line can hold."""
    assert id_fault(value)


def test_a_good_message_is_let_in() -> None:
    """With a sender's own headers, and those of tracers."""
    assert task_fault(GOOD, RESERVED) == ""
    assert not id_fault("x" * 255)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"id": 5}, "id"), ({"timelimit": [1, "x"]}, "timelimit"), ({"chord": 5}, "chord"),
        ({"called_directly": True}, "called_directly"), ({"released": "x"}, "released"),
        ({"a": "x" * 70_000}, "'a'"), ({1: 2}, "name"), ({"timelimit": [True, None]}, "timelimit"),
        ({"timelimit": [float("nan"), 1]}, "timelimit"), ({"timelimit": [1e300, 1]}, "timelimit"),
        ({"retries": 2**40}, "retries"), ({"stamps": ["x"]}, "stamps"),
    ],
)  # fmt: skip
def test_the_fault_names_the_part(change: dict[Any, Any], word: str) -> None:
    """So that the sender knows what to mend."""
    assert word in task_fault(GOOD | change, RESERVED)


def test_what_celery_sends_is_let_in() -> None:
    """Every canvas that Celery makes."""
    step = signature("store", args=(1,), kwargs={"a": 2}, queue="x", countdown=5)
    step.link(signature("log"))
    parts = {
        "callbacks": [dict(step)],
        "chain": [dict(group(step, step)), dict(step)],
        "chord": dict(chord([step, step], step)),
        "errbacks": dict(step),
    }
    assert task_fault(GOOD | parts, RESERVED) == ""
    assert body_fault([[1], {}, parts]) == ""


def test_depth_is_measured_without_recursion() -> None:
    """Deep, wide, shared and circular values, each in little time."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert too_deep(deep)
    assert not too_deep([[0] * 100_000] * 1_000)
    circle: dict[str, Any] = {}
    circle["x"] = circle
    assert too_deep(circle)
    shared: list[Any] = [1]
    for _ in range(150):  # 2 ** 150 paths
        shared = [shared, shared]
    assert not too_deep(shared)
    assert len(excerpt_of([circle, {"a": deep}, b"\xff" * 9_999])) <= 2_048


def test_a_parked_canvas_holds_no_header_that_is_ours() -> None:
    """Neither what is parked nor what an earlier version has parked overwrites our own headers."""
    odd = {"task": ["x"], "id": 7, "threadloom_organism": "x", "released": "x", "user": "anna"}
    assert custom_headers(odd, RESERVED) == {"user": "anna"}
    parked = canvas_options(Context(id="x", task="y", headers=odd))
    assert resume_options(parked)["headers"] == {"user": "anna"}
    assert resume_options('{"headers": 5}')["headers"] == {}
    assert resume_options('{"headers": {"task": ["x"]}}')["headers"] == {}


@pytest.mark.parametrize(
    ("method", "pack"), [("gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_a_bomb_is_measured_and_not_inflated(method: str, pack: Callable[[bytes], bytes]) -> None:
    """Whatever the method; also a second stream behind a small one."""
    check_inflation(pack(b"x" * 1_000), method, 1_000)
    check_inflation(pack(b""), method, 0)
    with pytest.raises(InflationError, match="more than"):
        check_inflation(pack(b"x" * 1_001), method, 1_000)
    with pytest.raises(InflationError, match="more than"):
        check_inflation(pack(bytes(20 * MIB)), method, MIB)
    with pytest.raises(InflationError):
        check_inflation(pack(b"x" * 1_000)[:-12], method, MIB)
    if method != "gzip":
        with pytest.raises(InflationError, match="more than"):
            check_inflation(pack(b"x") + pack(bytes(4 * MIB)), method, MIB)


@pytest.mark.parametrize("method", ["brotli", "", ["gzip"], "x" * 999])
def test_a_method_without_a_bound_is_refused(method: Any) -> None:
    """It cannot be measured."""
    with pytest.raises(InflationError):
        check_inflation(b"x", method, 9)


def test_conversations_take_turns_in_a_sweep() -> None:
    """One that has many items overdue keeps no other waiting."""
    many = [Due("a", str(n)) for n in range(3)] + [Due("b", "0")]
    assert [due.conversation_id for due in by_turns(many)] == ["a", "b", "a", "a"]
