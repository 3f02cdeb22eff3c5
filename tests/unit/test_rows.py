"""Records as rows: a written row is read back, and does not repeat the data stored beside it."""

from __future__ import annotations

import json

from threadloom.routing.backends import codec
from threadloom.routing.records import Branch, Delivery, Join, Thread, Wait

BRANCH = Branch("j1", 3)
THREADS = [
    Thread("t1", ("console", "clerk"), "t0", BRANCH, 'line 1: "<" has no end'),
    Thread("t0", ("ñ|:",)),
]
DELIVERIES = [
    Delivery("d1", "t1", "console", "clerk", "Ask", "desk.Ask", b"<Ask/>", (BRANCH,), "d0", 3,
             held=True, opens_branch=True, answer_within_ms=5, local_s=2.5),
    Delivery("d2", "t1", "console", "clerk", "Ask", "", bytes(range(256))),
]  # fmt: skip


def test_a_thread_is_read_from_its_row_and_its_name() -> None:
    """The thread's id is the name of its row, so the row does not repeat it."""
    for thread in THREADS:
        row = codec.thread_row(thread)
        assert codec.thread_from(thread.id, row) == thread
        assert "id" not in json.loads(row)


def test_a_delivery_is_read_from_its_row_and_its_envelope() -> None:
    """The envelope is stored beside the row, as bytes."""
    for delivery in DELIVERIES:
        row = codec.delivery_row(delivery)
        assert codec.delivery_from(row, delivery.envelope) == delivery
        assert "envelope" not in json.loads(row)


def test_what_is_at_its_default_is_left_out() -> None:
    """Most fields of most deliveries have their default."""
    assert json.loads(codec.delivery_row(DELIVERIES[1])) == {
        "id": "d2", "thread": "t1", "from": "console", "to": "clerk", "name": "Ask",
    }  # fmt: skip
    assert json.loads(codec.thread_row(THREADS[1])) == {"chain": ["ñ|:"]}


def test_joins_and_waits_are_their_own_rows() -> None:
    """Their rows hold all of their data."""
    join = Join("j1", "system.buffer", "t1", 9, 2, 0, "d3", targets=("item",), memo={"a": [1, "ñ"]})
    wait = Wait("w1", "t1", "clerk", "Really?", (BRANCH,))
    assert codec.read_join(codec.dump(join).encode()) == join
    assert codec.read_wait(codec.dump(wait).encode()) == wait
