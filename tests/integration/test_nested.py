"""Buffers in sequences in buffers, on real workers, with calls to peers in between."""

from __future__ import annotations

import pytest

from tests.harness import WAIT_S
from tests.works import Works, as_xml, fields_of, jobs, text_of, texts, xml
from threadloom.primitives import BufferStart, SequenceStart

pytest_plugins = ["tests.works_fixtures"]
pytestmark = pytest.mark.both_brokers

NO_ANSWER = "There was no answer in time."


def test_an_item_that_starts_a_sequence(works: Works) -> None:
    """The item's handler starts a sequence, one step of which calls the machine, and then
    replies.
    """
    answer = works.buffer("worker", jobs(("sequence", "a"), ("do", "b"), ("sequence", "c")))
    assert texts(works.items(answer)) == ["a+paint+polish", "b", "c+paint+polish"]


def test_items_that_are_sequences(works: Works) -> None:
    """The buffer's target is `system.sequence` itself; a sequence that fails is a failed item."""
    starts = [
        as_xml(SequenceStart(steps, xml("Part", name=name), sequence_id=name))
        for name, steps in [
            ("a", ["line.polish", "line.inspect", "packer"]),
            ("b", ["line.paint", "line.scrap", "line.paint"]),
            ("c", ["nobody"]),
            ("d", ["line.paint"]),
        ]
    ]
    answer = works.buffer("system.sequence", starts)
    assert texts(works.items(answer)) == [
        "aa+polish3",
        "!The message could not be processed.",
        "!The message could not be delivered.",
        "dd+paint1",
    ]


def test_a_step_that_starts_a_buffer(works: Works) -> None:
    """The step's handler sends a buffer of items to itself, and replies when the buffer has
    completed.
    """
    start = SequenceStart(["worker"], xml("Job", how="buffer", what="machine:m"))
    answer = works.ask("system.sequence", start)
    assert text_of(answer["final_result"]) == "[m.0 m.1 m.2]"


def test_a_step_that_is_a_buffer(works: Works) -> None:
    """The buffer's result is the next step's input; a buffer that cannot start fails the step."""
    buffer = BufferStart("worker", jobs(("machine", "a"), ("crash", "")), buffer_id="mine")
    answer = works.ask(
        "system.sequence", SequenceStart(["system.buffer", "archive"], as_xml(buffer))
    )
    assert text_of(answer["final_result"]) == "filed BufferComplete"
    buffer = BufferStart("nobody", jobs(("do", "a")))
    answer = works.ask(
        "system.sequence", SequenceStart(["system.buffer", "archive"], as_xml(buffer))
    )
    assert (answer["type"], answer["failed_step"], answer["step_index"]) == (
        "SequenceError",
        "system.buffer",
        0,
    )
    assert answer["error"] == "The message could not be delivered."


def test_a_buffer_in_a_buffer_in_a_buffer(works: Works) -> None:
    """At the third level twenty-seven items each call a peer, and every answer is at its index."""
    items = jobs(*[("buffer", f"buffer:machine:{name}") for name in "abc"])
    answer = works.buffer("worker", items)

    expected = []
    for name in "abc":
        inner = [" ".join(f"{name}.{n}.{m}" for m in range(3)) for n in range(3)]
        expected.append("[" + " ".join(f"[{row}]" for row in inner) + "]")
    assert texts(works.items(answer)) == expected
    assert len(works.records("machine")) == 27
    assert max(t.depth for t in works.story().threads.values()) == 7


def test_eight_nested_conversations_at_once(works: Works) -> None:
    """The conversations share nothing: each gets its own answers in its own order."""
    started = [
        works.begin(
            "system.sequence",
            SequenceStart(
                ["worker"], xml("Job", how="buffer", what=f"sequence:n{n}"), sequence_id="same"
            ),
        )
        for n in range(8)
    ]
    for n, result in enumerate(started):
        answer = fields_of(result.get(timeout=WAIT_S))
        parts = " ".join(f"n{n}.{m}+paint+polish" for m in range(3))
        assert text_of(answer["final_result"]) == f"[{parts}]"


def test_an_item_that_is_late_takes_everything_inside_it_along(works: Works) -> None:
    """A buffer inside an item is still running when the item's time ends, and its answers are
    not delivered.
    """
    items = jobs(("buffer", "gate:in"), ("do", "x"))
    start = BufferStart("worker", items, item_timeout_seconds=1.5)
    result = works.begin("system.buffer", start)
    for name in ("in.0", "in.1", "in.2"):
        works.seen("work", got=name)
    answer = fields_of(result.get(timeout=WAIT_S))
    assert texts(works.items(answer)) == [f"!{NO_ANSWER}", "x"]
    works.open_gate("in.0", "in.1", "in.2")
    works.story()
    assert not works.records("answered")


def test_a_deadline_outside_ends_what_is_inside(works: Works) -> None:
    """The outer buffer does not wait for a sequence at its first step, and the second step
    never runs.
    """
    job = xml("Job", how="gate", what="g")
    inner = as_xml(SequenceStart(["worker", "line.paint"], job))
    start = BufferStart("system.sequence", [inner], deadline_seconds=1.0)
    result = works.begin("system.buffer", start)
    works.seen("work", got="g")
    [item] = works.items(result.get(timeout=WAIT_S))
    assert item.missing
    works.open_gate("g")
    works.story()
    assert not works.records("paint")


def test_a_sequence_inside_a_buffer_nobody_collects(works: Works) -> None:
    """The items' own joins continue after the conversation has its value."""
    answer = works.buffer("worker", jobs(("sequence", "a"), ("buffer", "do:b")), collect=False)
    assert answer["type"] == "BufferDispatched"
    works.story()
    assert sorted(r["got"] for r in works.records("answered")) == [
        "BufferComplete",
        "SequenceComplete",
    ]


def test_an_agent_with_two_buffers_at_once(works: Works) -> None:
    """Both buffers come back to the agent with their own results, and the agent answers after
    both.
    """
    start = BufferStart("worker", jobs(("do", "a"), ("machine", "b")))
    order = {"to": "system.buffer", "what": as_xml(start).text}
    answer = works.ask("foreman.of.two", order)
    assert answer["type"] == "Done"
    assert [text[-4:] for text in answer["what"].split()] == ["22ab", "22ab"]
    assert [r["back"] for r in works.records("lead_two")] in ([1, 2], [2, 1])
