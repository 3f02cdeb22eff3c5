"""The planner's rules of calls, replies and limits, on made-up frames without broker and registry.

A frame is one position in a call tree: `at("ann", "bob")` is bob, called by ann, called by the
injector. `test_primitives.py` tests what joins decide.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from threadloom.routing import XML, HandlerResponse, payload
from threadloom.routing.actions import Action, Fault, read_return
from threadloom.routing.envelope import parse_envelope
from threadloom.routing.faults import handler_fault, timeout_fault
from threadloom.routing.organism import Listener, Organism
from threadloom.routing.payloads.payload import payload_type
from threadloom.routing.planner import plan
from threadloom.routing.records import Delivery, Frame, Thread, Transition
from threadloom.routing.states import ConversationStatus


@payload
@dataclass
class Note:
    """The payload class that the made-up listeners declare."""

    text: str = ""


@payload
@dataclass
class Other:
    """A payload class that no listener declares."""

    number: int = 0


@dataclass
class Stranger:
    """A class that is not a payload class."""


ACCEPTS = {"Note": payload_type(Note)}


def listener(name: str, **options: Any) -> Listener:
    return Listener(name, lambda *_: None, ACCEPTS, "A made-up one.", **options)


def organism(*, max_depth: int = 4, **options: Any) -> Organism:
    listeners = [
        listener("ann"),
        listener("bob", peers=("ann", "eve")),
        listener("eve", peers=()),
        listener("a.b"),
        listener("a"),
        listener("b.c"),
    ]
    return Organism("test", {entry.name: entry for entry in listeners}, max_depth, **options)


def at(*names: str, **options: Any) -> Frame:
    """Return the frame of the last of `names`.

    Each of them was called by the one before it, the first one by the injector.
    """
    chain = ("external", *names)
    thread = Thread(f"t{len(names)}", chain, f"t{len(names) - 1}")
    envelope = b""
    delivery = Delivery(
        "running", thread.id, chain[-2], names[-1], "Note", "", envelope, depth=len(names)
    )
    return Frame("conversation", delivery, thread, **options)


def decide(frame: Frame, *actions: Action, **options: Any) -> Transition:
    ids = (f"new{n}" for n in itertools.count())
    limits = {k: options.pop(k) for k in ("max_depth", "max_deliveries") if k in options}
    return plan(actions, frame, organism(**limits), new_id=lambda: next(ids), **options)


def said(delivery: Delivery) -> tuple[str, str, str, str]:
    """Return a delivery's sender, receiver, thread and payload, which its envelope must repeat."""
    envelope = parse_envelope(delivery.envelope)
    assert (envelope.from_id, envelope.to, envelope.thread) == (
        delivery.from_id, delivery.to, delivery.thread_id,
    )  # fmt: skip
    assert envelope.payload.tag.endswith(delivery.payload_name)
    return delivery.from_id, delivery.to, delivery.thread_id, delivery.payload_name


def code(delivery: Delivery) -> str | None:
    """Return the code of the SystemError that a delivery carries."""
    return parse_envelope(delivery.envelope).payload.findtext("code")


def call(to: str, message: Any = None) -> HandlerResponse:
    return HandlerResponse(message or Note("hello"), to=to)


REPLY = HandlerResponse.respond(Note("done"))


def test_a_call_extends_the_chain_by_one() -> None:
    """The peer gets a new thread below the caller's own."""
    transition = decide(at("ann"), call("bob"))
    [delivery] = transition.deliveries
    [thread] = transition.threads
    assert said(delivery) == ("ann", "bob", thread.id, "Note")
    assert (thread.chain, thread.parent_id) == (("external", "ann", "bob"), "t1")
    assert transition.children == (("t1", "bob", thread.id),)
    assert (delivery.parent_id, delivery.depth) == ("running", 2)
    assert transition.ending is None


def test_a_known_child_thread_is_used_again() -> None:
    """The plan has no new thread for a peer that was called from this thread before."""
    frame = at("ann", children={("t1", "bob"): "known"})
    transition = decide(frame, call("bob"))
    assert [d.thread_id for d in transition.deliveries] == ["known"]
    assert transition.threads == transition.children == ()


def test_two_calls_to_one_peer_share_one_new_thread() -> None:
    """Two calls in one list make two deliveries on one thread."""
    transition = decide(at("ann"), call("bob"), call("bob"), call("eve"))
    assert [d.to for d in transition.deliveries] == ["bob", "bob", "eve"]
    assert len({d.thread_id for d in transition.deliveries}) == 2
    assert len({d.id for d in transition.deliveries}) == 3
    assert len(transition.threads) == 2


def test_a_self_call_keeps_the_thread_and_the_depth() -> None:
    """A listener may always call itself, even with an empty list of peers."""
    for name in ("ann", "eve"):
        transition = decide(at("bob", name), call(name))
        assert [said(d) for d in transition.deliveries] == [(name, name, "t2", "Note")]
        assert transition.threads == ()
        assert transition.deliveries[0].depth == 2


@pytest.mark.parametrize(
    ("caller", "target", "told"),
    [
        ("ann", "nobody", "routing"),
        ("ann", "", "routing"),
        ("bob", "", "routing"),
        ("bob", "a.b", "routing"),
        ("bob", "nobody", "routing"),
        ("eve", "ann", "routing"),
        ("ann", "ann.bob", "routing"),
    ],
)
def test_what_may_not_be_called_is_answered_to_the_caller(
    caller: str, target: str, told: str
) -> None:
    """The caller gets an error from the system on its own thread, and the target, if it exists,
    gets nothing. A language model may choose an empty target; the call is still not a reply.
    """
    transition = decide(at(caller), call(target))
    assert transition.ending is None
    [delivery] = transition.deliveries
    assert said(delivery) == ("system", caller, "t1", "SystemError")
    assert code(delivery) == told
    assert transition.threads == ()
    assert not target or target not in delivery.envelope.decode()
    assert (repr(target) if target else "names no listener") in transition.note


def test_more_calls_than_the_limit_are_not_even_looked_at() -> None:
    """Preparing twenty thousand takes half a minute, and none of them could be made."""
    strange = [HandlerResponse(object(), to="bob")] * 20_000
    transition = decide(at("ann"), *strange, max_deliveries=100)
    assert (transition.deliveries, transition.threads) == ((), ())
    assert transition.ending is not None
    assert transition.ending.value["code"] == "limit"


def test_unknown_and_forbidden_read_alike() -> None:
    """The two errors are equal byte for byte, except for ids."""
    unknown, forbidden = (decide(at("bob"), call(to)) for to in ("nobody", "a.b"))
    assert unknown.deliveries == forbidden.deliveries


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (Other(1), "huh"),
        (XML("<Other><number>1</number></Other>"), "huh"),
        (XML("<Note xmlns='urn:x'/>"), "huh"),
        (timeout_fault(), "huh"),
        (Note("\0"), "SystemError"),
        (Note(7), "SystemError"),  # type: ignore[arg-type]
        (Stranger(), "SystemError"),
        ("text", "SystemError"),
    ],
)
def test_a_call_that_breaks_a_contract_is_answered_to_the_caller(message: Any, told: str) -> None:
    """A payload that the target does not take, or that cannot be written, is not sent."""
    [delivery] = decide(at("ann"), call("bob", message)).deliveries
    assert said(delivery) == ("system", "ann", "t1", told)


def test_a_raw_element_of_a_declared_class_may_be_sent() -> None:
    """The XML is sent as it is; the receiver's schema validates it."""
    [delivery] = decide(at("ann"), call("bob", XML("<Note><text>x</text></Note>"))).deliveries
    assert said(delivery)[:2] == ("ann", "bob")


def test_a_reply_prunes_the_chain_by_one() -> None:
    """The reply goes to the caller on the caller's thread, whatever its class."""
    transition = decide(at("ann", "bob", "eve"), HandlerResponse.respond(Other(1)))
    assert [said(d) for d in transition.deliveries] == [("eve", "bob", "t2", "Other")]
    assert [d.depth for d in transition.deliveries] == [2]
    assert transition.threads == ()
    assert transition.max_deliveries == 0, "a reply is always let through"


def test_dots_are_ordinary_characters() -> None:
    """`a` → `b.c` and `a.b` → `c` are two chains; a reply goes up by one name, not by one dot."""
    [delivery] = decide(at("a", "b.c"), REPLY).deliveries
    assert said(delivery) == ("b.c", "a", "t1", "Note")
    [thread] = decide(at("a.b"), call("b.c")).threads
    assert thread.chain == ("external", "a.b", "b.c")


def test_a_first_hop_reply_ends_the_conversation() -> None:
    """The value is JSON, on the injector's thread, and nothing is delivered."""
    transition = decide(at("ann"), REPLY)
    assert transition.deliveries == ()
    assert transition.ending is not None
    assert transition.ending.status is ConversationStatus.COMPLETED
    assert transition.ending.value == {"type": "Note", "payload": {"text": "done"}, "thread": "t0"}


def test_the_first_ending_of_a_run_counts() -> None:
    """A list of two replies at the first hop gives one value."""
    transition = decide(at("ann"), REPLY, HandlerResponse.respond(Note("again")))
    assert transition.ending is not None
    assert transition.ending.value["payload"] == {"text": "done"}


def test_a_repaired_message_is_mentioned_in_the_value() -> None:
    """The repairs of the injected XML are in the value, beside the reply."""
    frame = at("ann")
    frame = replace(frame, thread=replace(frame.thread, repairs="line 1: mended"))
    ending = decide(frame, REPLY).ending
    assert ending is not None
    assert ending.value["huh"] == "line 1: mended"


@pytest.mark.parametrize("fault", [handler_fault(), timeout_fault()])
def test_a_fault_goes_to_the_caller_and_its_details_do_not(fault: Any) -> None:
    """Inside, the fault is a reply; at the first hop it is the conversation's error.

    The details are in a separate note.
    """
    action = Fault(fault, "the secret")
    inside = decide(at("ann", "bob"), action)
    assert [said(d) for d in inside.deliveries] == [("bob", "ann", "t1", "SystemError")]
    assert inside.note == "the secret"
    assert b"secret" not in inside.deliveries[0].envelope
    outside = decide(at("ann"), action)
    assert outside.ending is not None
    assert outside.ending.status is ConversationStatus.ERROR
    assert outside.ending.value == {
        "code": fault.code, "message": fault.message, "retry_allowed": fault.retry_allowed,
    }  # fmt: skip


def test_a_reply_that_cannot_be_written_is_a_fault() -> None:
    """The caller gets a generic error, and the operators get its cause."""
    transition = decide(at("ann", "bob"), HandlerResponse.respond(Stranger()))
    [delivery] = transition.deliveries
    assert code(delivery) == "handler"
    assert "Stranger" in transition.note


def test_the_depth_limit_refuses_the_call_and_not_the_self_call() -> None:
    """At the limit a call gets an error; the listener may still reply and call itself."""
    deep = at("ann", "bob", "ann", "bob")
    [delivery] = decide(deep, call("eve")).deliveries
    assert said(delivery) == ("system", "bob", "t4", "SystemError")
    assert code(delivery) == "limit"
    assert [d.to for d in decide(deep, call("bob")).deliveries] == ["bob"]
    assert [d.to for d in decide(at("ann", "bob", "ann"), call("bob")).deliveries] == ["bob"]


@pytest.mark.parametrize("over_limit", [False, True])
def test_past_the_delivery_limit_the_error_goes_up_once(over_limit: bool) -> None:
    """Two calls are refused by one error, whether the limit was known before or the registry
    reported it.
    """
    had = 1 if over_limit else 9
    frame = at("ann", "bob", deliveries=had)
    transition = decide(frame, call("eve"), call("ann"), max_deliveries=10, over_limit=over_limit)
    [delivery] = transition.deliveries
    assert said(delivery) == ("bob", "ann", "t1", "SystemError")
    assert code(delivery) == "limit"
    assert transition.threads == transition.children == ()
    assert transition.max_deliveries == 0


def test_within_the_delivery_limit_the_registry_has_the_last_word() -> None:
    """A transition with calls carries the limit, because others may have called meanwhile."""
    assert decide(at("ann", deliveries=9), call("bob"), max_deliveries=10).max_deliveries == 10


def test_a_wait_is_no_delivery() -> None:
    """A wait names its thread and the listener that the input is for."""
    transition = decide(at("ann", "bob"), HandlerResponse.await_input("Go on?"))
    [wait] = transition.waits
    assert (wait.thread_id, wait.listener, wait.prompt) == ("t2", "bob", "Go on?")
    assert transition.deliveries == ()


def test_nothing_is_nothing() -> None:
    """None plans nothing; the registry counts whether the conversation is over."""
    transition = decide(at("ann"))
    assert (transition.deliveries, transition.ending, transition.note) == ((), None, "")


@pytest.mark.parametrize(
    ("returned", "count"),
    [(None, 0), ([], 0), ((), 0), (REPLY, 1), ([REPLY, call("bob")], 2)],
)
def test_what_a_handler_may_return(returned: Any, count: int) -> None:
    """A handler may return None, one response, or a list of responses."""
    assert len(read_return(returned)) == count
    assert not any(isinstance(action, Fault) for action in read_return(returned))


@pytest.mark.parametrize("returned", ["text", b"", 7, {}, Note(), [REPLY, "text"], [None]])
def test_anything_else_is_a_fault(returned: Any) -> None:
    """One wrong object in a list of responses is a fault as well: no response of the list is
    sent.
    """
    [action] = read_return(returned)
    assert isinstance(action, Fault)
    assert action.payload.code == "handler"
    assert "the handler returned" in action.note


NAMES = st.sampled_from(["ann", "bob", "eve", "a", "a.b", "b.c"])


@given(st.lists(NAMES, min_size=1, max_size=4), st.lists(NAMES, max_size=6))
def test_every_call_is_answered_or_delivered(chain: list[str], targets: list[str]) -> None:
    """Whoever calls whom, each call becomes one delivery to the target or one back to the caller.

    A delivery to another listener has a thread one deeper, whose chain ends in caller and target.
    """
    frame = at(*chain)
    transition = decide(frame, *map(call, targets))
    assert len(transition.deliveries) == len(targets)
    threads = {t.id: t for t in transition.threads}
    for target, delivery in zip(targets, transition.deliveries, strict=True):
        if delivery.from_id == "system" or target == chain[-1]:
            assert (delivery.to, delivery.thread_id) == (chain[-1], frame.thread.id)
        else:
            assert threads[delivery.thread_id].chain == (*frame.thread.chain, target)
            assert (delivery.to, delivery.depth) == (target, len(chain) + 1)


# --- what may be run without being queued ---------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timeout_s": 7.0}, 7.0),
        ({"local": False}, 0.0),
        ({"queue": "own"}, 0.0),
        ({"rate_limit": "10/s"}, 0.0),
    ],
    ids=["as it comes", "local: false", "a queue", "a rate limit"],
)
def test_a_delivery_says_how_long_any_worker_may_run_it(
    options: dict[str, Any], expected: float
) -> None:
    """The time is its listener's timeout, or none if the listener is reached only through its
    queue.
    """
    known = organism()
    listeners = {**known.listeners, "ann": listener("ann", **options)}
    called = plan(
        (call("ann"),),
        at("bob"),
        dataclasses.replace(known, listeners=listeners),
        new_id=lambda: "new",
    )
    assert [delivery.local_s for delivery in called.deliveries] == [expected]
