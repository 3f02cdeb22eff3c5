"""Sequence and buffer as pure functions: the actions they return for a message and a frame."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tests.stories import Story
from threadloom.primitives import (
    SYSTEM_LISTENERS,
    BufferComplete,
    BufferError,
    BufferStart,
    SequenceComplete,
    SequenceError,
    SequenceStart,
    SystemCall,
)
from threadloom.primitives.buffer import BATCH, buffer, results_element
from threadloom.primitives.sequence import sequence
from threadloom.routing import (
    XML,
    BufferItem,
    HandlerResponse,
    Listener,
    Organism,
    UnknownResultsError,
)
from threadloom.routing.actions import FanOut, Fault, Forward, JoinSettled, Supply
from threadloom.routing.backends import MemoryBackend
from threadloom.routing.errors import InvalidPayloadError
from threadloom.routing.payloads.payload import payload_type
from threadloom.routing.planner import plan
from threadloom.routing.records import Branch, Delivery, Frame, StoredResult, Thread
from threadloom.routing.results import MISSING, StoredItems, StoredResults, items_of

PART = XML("<Part><name>bolt</name></Part>")


def listener(name: str, *, peers: tuple[str, ...] | None = None, **contract: Any) -> Listener:
    return Listener(name, print, contract.get("accepts", {}), "", contract.get("replies", {}),
                    peers=peers)  # fmt: skip


def organism(**limits: Any) -> Organism:
    known = [
        *SYSTEM_LISTENERS,
        listener("paint", accepts={"Part": None}),
        listener("pack", accepts={"Certificate": None}),
        listener("agent"),
        listener("apprentice", peers=("system.sequence", "system.buffer", "paint")),
    ]
    return Organism("test", {entry.name: entry for entry in known}, **limits)


def call_in(
    *chain: str, stored: StoredResults | None = None, delivery_id: str = "d", **limits: Any
) -> SystemCall:
    """Return a call of the last name in a chain; the first name is the injector."""
    backend = MemoryBackend(organism="test")
    entry = Delivery(delivery_id, "t", chain[-2], chain[-1], "Start", "", b"")
    frame = Frame("c", entry, Thread("t", chain, "t0"))
    stored = stored or StoredResults(backend, "c")
    return SystemCall(frame, organism(**limits), stored, lanes=lambda: 64)


def error_of(action: Any) -> Any:
    """Return the error with which a primitive answers; the answer must count as a failure."""
    assert isinstance(action, Fault)
    return action.payload


# --- sequence -----------------------------------------------------------------------------


def test_a_sequence_opens_a_join_that_one_failure_ends() -> None:
    """The join has the steps in order, the first step's input, and what its end needs to know."""
    start = SequenceStart(["paint", "paint"], PART, return_to="agent", sequence_id="mine")
    fan = sequence(start, call_in("console", "system.sequence"))
    assert isinstance(fan, FanOut)
    assert (fan.chained, fan.label, fan.targets) == (True, "mine", ("paint", "paint"))
    assert (fan.total, fan.need_ok, fan.need_failed) == (2, 0, 1)
    assert [XML(element) for element in fan.inputs] == [PART]
    assert fan.memo == {"return_to": "agent"}
    assert (fan.label_refusal.sequence_id, fan.label_refusal.step_index) == ("mine", -1)


def test_a_sequence_without_an_id_gets_one() -> None:
    """The id is random, and refusals have one, too."""
    fan = sequence(SequenceStart(["paint"], PART), call_in("console", "system.sequence"))
    assert isinstance(fan, FanOut)
    assert uuid.UUID(fan.label).version == 4
    assert fan.limit_refusal.sequence_id == fan.label


@pytest.mark.parametrize(
    ("start", "limits", "expected"),
    [
        (SequenceStart([], PART), {}, ("", -1, "at least one step")),
        (SequenceStart(["paint", "?"], PART), {}, ("?", 1, "could not be delivered")),
        (SequenceStart(["pack"], PART), {}, ("pack", 0, "takes Certificate, gets Part")),
        (SequenceStart(["paint"], PART, "?"), {}, ("", -1, "return_to: ")),
        (SequenceStart(["paint"], PART), {"max_depth": 1}, ("", -1, "limit")),
        (SequenceStart(["paint"] * 3, PART), {"max_deliveries": 4}, ("", -1, "limit")),
    ],
)
def test_what_a_sequence_refuses(
    start: SequenceStart, limits: dict[str, int], expected: tuple[str, int, str]
) -> None:
    """The refusal names the step, its index and the reason."""
    error = error_of(sequence(start, call_in("console", "system.sequence", **limits)))
    assert isinstance(error, SequenceError)
    step, index, text = expected
    assert (error.failed_step, error.step_index) == (step, index)
    assert text in error.error


# --- buffer -------------------------------------------------------------------------------


def test_a_buffer_opens_a_join_with_the_thresholds_of_its_policy() -> None:
    """Times are in ms and rounded up, so that a very short time does not become none."""
    start = BufferStart(
        "paint", [PART] * 5, buffer_id="mine", policy="at_least:2", max_parallel=9,
        item_timeout_seconds=0.0001, deadline_seconds=1.5,
    )  # fmt: skip
    fan = buffer(start, call_in("console", "system.buffer"))
    assert isinstance(fan, FanOut)
    assert (fan.chained, fan.label, fan.targets) == (False, "mine", ("paint",))
    assert (fan.total, fan.need_ok, fan.need_failed, fan.window) == (5, 2, 4, 5)
    assert (fan.item_timeout_ms, fan.deadline_ms) == (1, 1500)
    assert (fan.collect, fan.reply) == (True, None)


def test_a_buffer_nobody_collects_ends_for_no_reason_but_the_last_item() -> None:
    """Neither the policy nor the deadline cancels an item; the time limit of each item still
    applies.
    """
    start = BufferStart(
        "paint", [PART] * 3, collect=False, policy="any", deadline_seconds=1, item_timeout_seconds=1
    )
    fan = buffer(start, call_in("console", "system.buffer"))
    assert isinstance(fan, FanOut)
    assert (fan.need_ok, fan.need_failed, fan.deadline_ms) == (0, 0, 0)
    assert fan.item_timeout_ms == 1000
    assert (fan.reply.buffer_id, fan.reply.total) == (fan.label, 3)


@pytest.mark.parametrize(
    ("changes", "limits", "text"),
    [
        ({"target": "?"}, {}, "could not be delivered"),
        ({"return_to": "?"}, {}, "return_to: "),
        ({"max_parallel": -1}, {}, "max_parallel"),
        ({"item_timeout_seconds": float("nan")}, {}, "item_timeout_seconds"),
        ({"deadline_seconds": float("inf")}, {}, "deadline_seconds"),
        ({"policy": "?"}, {}, "unknown policy '?'"),
        ({"policy": "?", "items": []}, {}, "unknown policy '?'"),
        ({}, {"max_depth": 1}, "limit"),
        ({}, {"max_deliveries": 3}, "2 items are too many for max_deliveries 3"),
    ],
)
def test_what_a_buffer_refuses(changes: dict[str, Any], limits: dict[str, int], text: str) -> None:
    """The refusal has a reason, and no join is opened."""
    given_ = {"target": "paint", "items": [PART, PART], **changes}
    error = error_of(buffer(BufferStart(**given_), call_in("console", "system.buffer", **limits)))
    assert isinstance(error, BufferError)
    assert text in error.error


def in_registry() -> tuple[Story, StoredResults]:
    """Make a conversation in which a buffer may store its items."""
    story = Story(MemoryBackend(organism="test"))
    story.start()
    return story, StoredResults(story.backend, story.id)


def numbered(count: int) -> list[XML]:
    return [XML(f"<Part><name>{number}</name></Part>") for number in range(count)]


def test_a_long_buffer_becomes_deliveries_a_batch_at_a_time() -> None:
    """The items are stored first; each supply then brings the next batch, and the last supply
    brings the rest.
    """
    _, stored = in_registry()
    items = numbered(2 * BATCH + 5)
    call = call_in("console", "system.buffer", stored=stored)
    fan = buffer(BufferStart("paint", items), replace(call, lanes=lambda: 6))
    assert isinstance(fan, FanOut)
    assert (fan.total, fan.released, len(fan.inputs)) == (len(items), 6, BATCH)
    seen = [XML(element) for element in fan.inputs]
    transition = plan((fan,), call.frame, call.organism, new_id=lambda: str(uuid.uuid4()))
    [join], [refill] = transition.joins, transition.refills
    assert (join.released, refill.join_id, refill.at) == (6, join.id, 0)
    assert [d.held for d in transition.deliveries if d.opens_branch] == [
        index >= 6 for index in range(BATCH)
    ]
    for start in (BATCH, 2 * BATCH):
        inputs = stored.stored_items(fan.more_from, start, min(start + BATCH, join.total))
        supply = Supply(join, start, tuple(inputs), fan.more_from)
        supplied = plan((supply,), call.frame, call.organism, new_id=lambda: str(uuid.uuid4()))
        branches = [d.scope[-1].index for d in supplied.deliveries if d.opens_branch]
        assert branches == list(range(start, min(start + BATCH, join.total)))
        assert len(supplied.refills) == (start == BATCH)
        seen += [XML(element) for element in supply.inputs]
    assert seen == items


def test_items_that_lie_in_the_registry_are_only_named() -> None:
    """The items come from a generator; the message holds only the list's name and length."""
    _, stored = in_registry()
    [reference] = [stored.put(item for item in numbered(3)).reference]
    assert StoredItems.named_by([reference]) == StoredItems(reference.element.get("ref"), 3)
    call = call_in("console", "system.buffer", stored=stored)
    fan = buffer(BufferStart("paint", [reference]), call)
    assert isinstance(fan, FanOut)
    assert [XML(element) for element in fan.inputs] == numbered(3)


@pytest.mark.parametrize(
    "text",
    [
        "<stored ref='x' total='3'/>",
        "<stored xmlns='https://xml-pipeline.org/ns/core/v1' ref='x' total='three'/>",
        "<stored xmlns='https://xml-pipeline.org/ns/core/v1' ref='x'/>",
    ],
)
def test_what_only_looks_like_a_stored_list_is_an_item(text: str) -> None:
    """An item may be an element of the user's own with that name."""
    assert StoredItems.named_by([XML(text)]) is None


def test_a_list_that_is_not_there_is_an_error_before_anything_runs() -> None:
    """The reference is made up or belongs to another conversation."""
    _, stored = in_registry()
    call = call_in("console", "system.buffer", stored=stored)
    start = BufferStart("paint", [StoredItems("made-up", 3).reference])
    assert "no such list" in error_of(buffer(start, call)).error


@pytest.mark.parametrize("total", [0, 1, 2, 4, 900])
def test_a_list_is_as_long_as_it_is_and_not_as_a_message_says(total: int) -> None:
    """Whoever writes the reference by hand can neither leave items out nor make some up."""
    _, stored = in_registry()
    name = stored.put([PART] * 3).name
    call = call_in("console", "system.buffer", stored=stored)
    start = BufferStart("paint", [StoredItems(name, total).reference])
    assert "no such list" in error_of(buffer(start, call)).error
    assert isinstance(buffer(BufferStart("paint", [StoredItems(name, 3).reference]), call), FanOut)


def test_a_list_without_an_end_is_not_stored_without_end() -> None:
    """More than could ever be delivered, or an item that no message could hold."""
    story, _ = in_registry()
    bounded = StoredResults(story.backend, story.id, max_items=5, max_item_bytes=100)
    assert bounded.put([PART] * 5).total == 5
    with pytest.raises(InvalidPayloadError, match="item 5: there are more of them than max_deliv"):
        bounded.put(itertools.repeat(PART))
    with pytest.raises(InvalidPayloadError, match="more than max_payload_bytes 100"):
        bounded.put([XML(f"<x>{'x' * 100}</x>")])


def test_as_many_items_as_fit_are_not_refused() -> None:
    """The limit admits the buffer's own delivery, its items and its body, and not one delivery
    more.
    """
    call = call_in("console", "system.buffer", max_deliveries=4)
    assert isinstance(buffer(BufferStart("paint", [PART] * 2), call), FanOut)
    assert isinstance(buffer(BufferStart("paint", [PART] * 3), call), Fault)


@pytest.mark.parametrize(
    ("known", "text"),
    [({"label_taken": True}, "still running"), ({"over_limit": True}, "limit of this")],
)
@pytest.mark.parametrize("primitive", [buffer, sequence])
def test_what_the_registry_refuses_fails_the_branch_it_is(
    primitive: Callable[[Any, SystemCall], Any], known: dict[str, bool], text: str
) -> None:
    """If an id is in use or the limit is reached, the primitive answers its own error and opens
    nothing.
    """
    branch = Branch("outer", 3)
    thread = Thread("t", ("console", "system.buffer", "system.buffer"), "t0", branch)
    entry = Delivery("d", "t", "console", "system.buffer", "Start", "", b"", (branch,))
    stored = call_in("a", "b").stored
    call = SystemCall(Frame("c", entry, thread), organism(), stored, lanes=lambda: 64)
    start: Any = BufferStart("paint", [PART])
    if primitive is sequence:
        start = SequenceStart(["paint"], PART)
    fan = primitive(start, call)
    assert isinstance(fan, FanOut)
    ids = map(str, itertools.count())
    planned = plan((fan,), call.frame, call.organism, new_id=lambda: next(ids), **known)
    assert not planned.joins
    assert not planned.deliveries
    [result] = planned.results
    assert (result.branch, result.success) == (branch, False)
    assert text in result.payload.decode()
    assert result.payload.startswith((b"<BufferError>", b"<SequenceError>"))


# --- ends ---------------------------------------------------------------------------------


def ended(total: int, failures: Sequence[int] = (), **options: Any) -> tuple[Story, str]:
    """Make a story in which a join with this many branches has been answered."""
    story = Story(MemoryBackend(organism="test"), id=str(uuid.uuid4()))
    join = story.open_join(total, **options)
    for index in range(total):
        story.reply(f"{join}.{index}", success=index not in failures)
    return story, join


def end(
    primitive: Callable[[Any, SystemCall], Any],
    story: Story,
    join_id: str,
    name: str,
    **limits: Any,
) -> Any:
    """Tell a primitive that its join has fired."""
    stored = StoredResults(story.backend, story.id)
    call = call_in("console", name, stored=stored, delivery_id=f"{join_id}.body", **limits)
    return primitive(JoinSettled(join_id), call)


def test_a_buffer_tells_every_index_in_order() -> None:
    """A success has its reply as it came; a failure has its error."""
    story, join = ended(3, failures=[1])
    action = end(buffer, story, join, "system.buffer")
    assert isinstance(action, HandlerResponse)
    complete = action.payload
    assert isinstance(complete, BufferComplete)
    assert (complete.total, complete.successful) == (3, 2)
    assert [item.get("success") for item in complete.results.element] == ["true", "false", "true"]
    assert complete.results.text.startswith('<results><item index="0" success="true"><R>0|True</R>')


@pytest.mark.parametrize("excess", [-1, 0, 1, 100, 250])
def test_results_that_do_not_fit_become_a_reference(excess: int) -> None:
    """The limit is exact: a payload of exactly `max_payload_bytes` is inline."""
    story, join = ended(3)
    whole = end(buffer, story, join, "system.buffer").payload
    size = len(XML(payload_type(BufferComplete).to_element(whole)).text)
    limit = size - excess
    complete = end(buffer, story, join, "system.buffer", max_payload_bytes=limit).payload
    if excess <= 0:
        assert complete == whole
        return
    assert complete.results.text == f'<results ref="{join}" total="3"></results>'
    assert list(items_of(complete, StoredResults(story.backend, story.id))) == list(
        items_of(whole, None)
    )


def test_only_its_own_end_is_believed() -> None:
    """A delivery that is not the join's body does not end the join."""
    story, join = ended(2)
    call = call_in("console", "system.buffer", stored=StoredResults(story.backend, story.id))
    for primitive in (buffer, sequence):
        with pytest.raises(LookupError):
            primitive(JoinSettled(join), call)
        with pytest.raises(LookupError):
            primitive(JoinSettled("another"), call)


def test_a_sequence_tells_the_last_reply() -> None:
    """The last reply goes to the caller, or to `return_to` if that was given."""
    story, join = ended(2, targets=("a", "b"))
    complete = end(sequence, story, join, "system.sequence").payload
    assert isinstance(complete, SequenceComplete)
    assert (complete.final_result.text, complete.step_count) == ("<R>1|True</R>", 2)
    story, join = ended(2, targets=("a", "b"), memo={"return_to": "agent"})
    action = end(sequence, story, join, "system.sequence")
    assert isinstance(action, Forward)
    assert action.to == "agent"


def test_a_sequence_tells_which_step_failed() -> None:
    """The error has the true index of the step, though another step has the same name."""
    story = Story(MemoryBackend(organism="test"), id=str(uuid.uuid4()))
    join = story.open_join(4, targets=("a", "b", "a", "b"), need_failed=1)
    for index in range(3):
        story.reply(f"{join}.{index}", success=index < 2)
    error = error_of(end(sequence, story, join, "system.sequence"))
    assert (error.failed_step, error.step_index) == ("a", 2)


# --- results ------------------------------------------------------------------------------

_texts = st.text(st.characters(blacklist_categories=["Cs"], min_codepoint=32), max_size=20)
_contents = st.one_of(
    st.builds(lambda text: ("done", text), _texts),
    st.builds(lambda text: ("failed", text), _texts),
    st.just(("missing", "")),
)


def item(index: int, kind: str, text: str) -> BufferItem:
    if kind == "done":
        element = etree.Element("Done")
        element.text = text
        return BufferItem(index, True, XML(element))
    if kind == "missing":
        return BufferItem(index, False, error=MISSING, missing=True)
    return BufferItem(index, False, error=text)


@given(st.lists(_contents, max_size=12))
def test_inline_results_are_read_as_they_were_written(contents: list[tuple[str, str]]) -> None:
    """An element, its text and the JSON value that a client got all give the same items."""
    written = [item(index, *content) for index, content in enumerate(contents)]
    results = XML(results_element(written))
    complete = BufferComplete("b", len(written), 0, results)
    kind = payload_type(BufferComplete)
    value = {"type": "BufferComplete", "payload": kind.to_json(complete), "thread": "t"}
    as_element = XML(kind.to_element(complete))
    for source in (complete, results, results.text, value, value["payload"], as_element):
        assert list(items_of(source, None)) == written


@pytest.mark.parametrize("source", [None, 5, "", "<a/>", "no xml", {}, {"payload": 1}, XML("<a/>")])
def test_what_is_no_buffers_result_is_refused(source: object) -> None:
    """A ValueError is raised before anything is iterated."""
    with pytest.raises(ValueError, match="results of a buffer"):
        items_of(source, None)


def test_a_reference_of_another_conversation_is_worth_nothing() -> None:
    """The reference is refused, and so is one without a registry to look in."""
    story, join = ended(1)
    reference = XML(f'<results ref="{join}" total="1"/>')
    [found] = items_of(reference, StoredResults(story.backend, story.id))
    assert found.success
    for stored in (StoredResults(story.backend, "another"), None):
        with pytest.raises(UnknownResultsError):
            items_of(reference, stored)


class _Pages:
    """A backend whose answers are as large as the test says, and which notes the pages asked
    for.
    """

    def __init__(self, size: Callable[[int], int]) -> None:
        self.size = size
        self.pages: list[range] = []

    def results(self, _c: str, _j: str, start: int, stop: int) -> list[StoredResult]:
        self.pages.append(range(start, stop))
        return [StoredResult(n, True, b"x" * self.size(n), "") for n in range(start, stop)]


@pytest.mark.parametrize("size", [10, 5_000, 1_000_000])
def test_pages_hold_about_a_mebibyte(size: int) -> None:
    """Small answers come a thousand to a page, large ones a few to a page; each comes exactly
    once.
    """
    backend = _Pages(lambda _: size)
    stored = StoredResults(backend, "c")  # type: ignore[arg-type]
    assert [answer.index for answer in stored.answers("j", 3_000)] == list(range(3_000))
    assert [n for page in backend.pages for n in page] == list(range(3_000))
    largest = max(len(page) for page in backend.pages[1:])
    assert largest <= 1_000
    assert largest * size <= 1_048_576
    assert largest in (1_000, 1_048_576 // (size + 1))


def test_a_join_that_is_not_complete_has_missing_items() -> None:
    """Missing items are reported in order, at the start, in between and at the end."""
    story = Story(MemoryBackend(organism="test"), id=str(uuid.uuid4()))
    join = story.open_join(6, need_ok=2)
    for index in (1, 4):
        story.reply(f"{join}.{index}")
    found = list(StoredResults(story.backend, story.id).items(join, 6))
    assert [i.index for i in found] == list(range(6))
    assert [i.index for i in found if not i.missing] == [1, 4]
    assert {i.error for i in found if i.missing} == {MISSING}
