"""Who may send to whom, on every path that a message can take: one rule, and one error text for
every refusal. `clerk` may call `helper` and the system listeners, `hermit` may call nobody, and
nobody may call the `vault`. Each path's actions are planned as in a worker; a path is open if
the target gets a message.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from threadloom.primitives import (
    BUFFER,
    SEQUENCE,
    SYSTEM_LISTENERS,
    BufferComplete,
    BufferStart,
    SequenceStart,
    SystemCall,
)
from threadloom.primitives.buffer import buffer
from threadloom.primitives.sequence import sequence
from threadloom.routing import XML, HandlerResponse, payload
from threadloom.routing.actions import (
    FanOut,
    Fault,
    Forward,
    Retry,
    Supply,
    read_return,
)
from threadloom.routing.backends import MemoryBackend
from threadloom.routing.faults import handler_fault, routing_fault
from threadloom.routing.organism import Listener, Organism
from threadloom.routing.payloads.payload import payload_type
from threadloom.routing.planner import plan
from threadloom.routing.records import Branch, Delivery, Frame, Join, Thread, Transition
from threadloom.routing.results import StoredResults
from threadloom.routing.rights import refusal


@payload
@dataclass
class Letter:
    """The payload class that every listener takes."""


LETTER = XML("<Letter/>")


ACCEPTED = {kind.name: kind for kind in map(payload_type, (Letter, BufferComplete))}


def listener(name: str, peers: tuple[str, ...] | None = None) -> Listener:
    return Listener(name, print, ACCEPTED, "", peers=peers)


ORGANISM = Organism(
    "office",
    {
        entry.name: entry
        for entry in (
            *SYSTEM_LISTENERS,
            listener("boss"),
            listener("clerk", ("helper", SEQUENCE, BUFFER)),
            listener("hermit", ()),
            listener("helper"),
            listener("vault"),
        )
    },
)


def at(*names: str) -> Frame:
    """Return the frame of the last name, each called by the name before it, the first one
    injected.
    """
    chain = ("external", *names)
    thread = Thread("t", chain, "t0")
    return Frame("c", Delivery("d", "t", chain[-2], chain[-1], "Letter", "", b""), thread)


def planned(frame: Frame, *actions: Any) -> Transition:
    ids = map(str, itertools.count())
    return plan(actions, frame, ORGANISM, new_id=lambda: next(ids))


def started(primitive: Callable[..., Any], message: Any, *names: str) -> Transition:
    """Return what a primitive makes of a message; its callers are these names, the last one
    first.
    """
    frame = at(*names, SEQUENCE if primitive is sequence else BUFFER)
    stored = StoredResults(MemoryBackend(organism="office"), "c")
    call = SystemCall(frame, ORGANISM, stored, lanes=lambda: 1)
    return planned(frame, *read_return(primitive(message, call), system=True))


def fan_out(*targets: str) -> FanOut:
    """Return a primitive's fan-out that does not ask for its initiator's rights."""
    return FanOut("", targets, (LETTER.element,), 1, 0, 0)


# --- the roads ------------------------------------------------------------------------------


def called(target: str, *names: str) -> Transition:
    return planned(at(*names), HandlerResponse(Letter(), to=target))


def called_in_a_list(target: str, *names: str) -> Transition:
    return planned(at(*names), *(HandlerResponse(Letter(), to=to) for to in ("helper", target)))


def as_a_step(target: str, *names: str) -> Transition:
    """Name the target as a later step, because a sequence whose first step is refused never
    starts.
    """
    return started(sequence, SequenceStart(["helper", target], LETTER), *names)


def as_the_first_step(target: str, *names: str) -> Transition:
    return started(sequence, SequenceStart([target], LETTER), *names)


def as_the_target_of_items(target: str, *names: str) -> Transition:
    return started(buffer, BufferStart(target, [LETTER, LETTER]), *names)


def as_a_step_in_an_item(target: str, *names: str) -> Transition:
    """Name the target as a step in an item of a buffer whose target is `system.sequence`."""
    return started(sequence, SequenceStart([target], LETTER), *names, BUFFER)


def as_an_item_in_steps_of_steps(target: str, *names: str) -> Transition:
    return started(buffer, BufferStart(target, [LETTER]), *names, SEQUENCE, BUFFER, SEQUENCE)


def as_return_to_of_a_sequence(target: str, *names: str) -> Transition:
    return started(sequence, SequenceStart(["helper"], LETTER, return_to=target), *names)


def as_return_to_of_a_buffer(target: str, *names: str) -> Transition:
    return started(buffer, BufferStart("helper", [LETTER], return_to=target), *names)


def as_return_to_of_no_items(target: str, *names: str) -> Transition:
    """Name the target as `return_to` of a buffer without items, which forwards at once."""
    return started(buffer, BufferStart("helper", [], return_to=target), *names)


def forwarded(target: str, *names: str) -> Transition:
    """Forward at the end of a primitive, when its initiator's rights may have changed."""
    return planned(at(*names, BUFFER), Forward(Letter(), target))


def fanned_out(target: str, *names: str) -> Transition:
    return planned(at(*names, BUFFER), fan_out(target))


def fanned_out_to_several(target: str, *names: str) -> Transition:
    return planned(at(*names, BUFFER), fan_out("helper", target))


ROADS = [
    called,
    called_in_a_list,
    as_a_step,
    as_the_first_step,
    as_the_target_of_items,
    as_a_step_in_an_item,
    as_an_item_in_steps_of_steps,
    as_return_to_of_a_sequence,
    as_return_to_of_a_buffer,
    as_return_to_of_no_items,
    forwarded,
    fanned_out,
    fanned_out_to_several,
]
roads = pytest.mark.parametrize("road", ROADS)


def reached(transition: Transition) -> set[str]:
    """Return who gets a message now or later; later steps and `return_to` stand in the join."""
    later = {name for join in transition.joins for name in (*join.targets, *join.memo.values())}
    return {d.to for d in transition.deliveries if d.from_id != "system"} | later


def outward(transition: Transition, target: str) -> list[str]:
    """Return all that anybody except operators can see, without ids, labels and the target's
    own name.
    """
    seen = [delivery.envelope.decode() for delivery in transition.deliveries]
    told = [*seen, str(transition.ending), *(r.payload.decode() for r in transition.results)]
    ids = r"[0-9a-f]{8}-[0-9a-f-]{27}"
    return [re.sub(ids, "", text.replace(target, "TARGET")) for text in told]


@roads
def test_a_peer_is_reached(road: Callable[..., Transition]) -> None:
    """The clerk has the helper among its peers, and no note is written."""
    transition = road("helper", "boss", "clerk")
    assert transition.note == ""
    assert "helper" in reached(transition)


@roads
def test_who_is_no_peer_is_not_reached(road: Callable[..., Transition]) -> None:
    """Nothing is created for the target, and the note tells operators whose list of peers lacks
    it.
    """
    transition = road("vault", "boss", "clerk")
    assert "vault" not in reached(transition)
    assert "clerk may not call 'vault': it is not in the peers of 'clerk'" in transition.note


@roads
def test_who_is_not_there_is_not_reached(road: Callable[..., Transition]) -> None:
    """The note tells operators that the target does not exist and that no list has to be
    changed.
    """
    transition = road("nobody", "boss", "clerk")
    assert "there is no listener 'nobody'" in transition.note
    assert "peers" not in transition.note


@roads
def test_unknown_and_forbidden_look_alike(road: Callable[..., Transition]) -> None:
    """They look alike byte for byte to everybody except operators."""
    unknown, forbidden = (road(target, "boss", "clerk") for target in ("nobody", "vault"))
    assert outward(unknown, "nobody") == outward(forbidden, "vault")
    assert routing_fault().message in "".join(outward(forbidden, "vault"))
    assert "peers" not in "".join(outward(forbidden, "vault"))
    assert len(forbidden.deliveries) == len(unknown.deliveries)


@roads
@pytest.mark.parametrize("initiator", [(), ("boss",)], ids=["injected", "free"])
def test_who_has_no_list_reaches_everybody(
    road: Callable[..., Transition], initiator: tuple[str, ...]
) -> None:
    """A listener without `peers` may call everybody, and so may a primitive's injector."""
    if not initiator and road in (called, called_in_a_list):
        initiator = ("helper",)  # this path needs a calling listener
    transition = road("vault", *initiator)
    assert transition.note == ""
    assert "vault" in reached(transition)


def test_one_refused_call_of_a_list_leaves_the_others() -> None:
    """Each call of a list is routed on its own."""
    transition = called_in_a_list("vault", "boss", "clerk")
    assert [(d.from_id, d.to) for d in transition.deliveries] == [
        ("clerk", "helper"),
        ("system", "clerk"),
    ]


# --- whose rights ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "refused"),
    [
        (("system.buffer",), ""),
        (("system.sequence", "system.buffer"), ""),
        (("boss", "system.buffer"), ""),
        (("clerk", "system.buffer"), "clerk"),
        (("clerk", "system.sequence", "system.buffer"), "clerk"),
        (("clerk", "system.buffer", "boss", "system.buffer"), ""),
        (("boss", "system.buffer", "clerk", "system.buffer"), "clerk"),
        (("hermit",), "hermit"),
        (("clerk", "hermit"), "hermit"),
        (("hermit", "boss"), ""),
    ],
)
def test_the_rights_are_those_of_the_nearest_listener(chain: tuple[str, ...], refused: str) -> None:
    """Neither the system listeners in between count, nor a listener further up the chain."""
    said = refusal("vault", at(*chain), ORGANISM)
    assert said.partition(" may not")[0] == refused


def test_an_injector_is_no_listener_whatever_it_is_called() -> None:
    """The injector is the first name of the chain and may call anybody."""
    thread = Thread("t", ("hermit", "system.buffer"), "t0")
    frame = Frame("c", Delivery("d", "t", "hermit", "system.buffer", "Letter", "", b""), thread)
    assert refusal("vault", frame, ORGANISM) == ""


def test_the_rights_of_who_was_removed_are_gone() -> None:
    """The removed listener's primitives still run but reach nobody, and the note gives the
    reason.
    """
    said = refusal("vault", at("boss", "removed", "system.buffer"), ORGANISM)
    assert said == "removed may not call 'vault': there is no listener 'removed' any more"


@pytest.mark.parametrize(("road", "name"), [(called, "hermit"), (as_the_target_of_items, "clerk")])
def test_everybody_may_call_itself(road: Callable[..., Transition], name: str) -> None:
    """A listener without peers may call itself directly, or through a primitive that it may
    call.
    """
    transition = road(name, "boss", name)
    assert transition.note == ""
    assert name in reached(transition)


def test_a_reply_is_never_checked() -> None:
    """The hermit answers the clerk, although the clerk is not among its peers."""
    transition = planned(at("boss", "clerk", "hermit"), HandlerResponse.respond(Letter()))
    assert [(d.from_id, d.to) for d in transition.deliveries] == [("hermit", "clerk")]
    assert transition.note == ""


# --- actions of the system ------------------------------------------------------------------

JOIN = Join("j", BUFFER, "t", 9, 0, 0, None, targets=("vault",))
SYSTEM_ACTIONS = [
    fan_out("vault"),
    Forward(Letter(), "vault"),
    Supply(JOIN, 0, (LETTER.element,), ""),
    Fault(Letter(), "made up"),
]


@pytest.mark.parametrize("in_a_list", [False, True], ids=["alone", "in a list"])
@pytest.mark.parametrize(
    "forged", [*SYSTEM_ACTIONS, Retry("again")], ids=lambda a: type(a).__name__
)
def test_only_system_listeners_ask_for_what_is_the_systems(forged: Any, in_a_list: bool) -> None:
    """Any other handler that returns such an action gets a fault, whose details only operators
    read.
    """
    returned = [HandlerResponse(Letter(), to="helper"), forged] if in_a_list else forged
    [fault] = read_return(returned)
    assert isinstance(fault, Fault)
    assert (fault.payload, fault.dead_letter) == (handler_fault(), True)
    assert f"a {type(forged).__name__}, which is for system listeners only" in fault.note
    transition = planned(at("boss", "hermit"), fault)
    assert [(d.from_id, d.to, d.payload_name) for d in transition.deliveries] == [
        ("hermit", "boss", "SystemError")
    ]
    assert type(forged).__name__ not in "".join(outward(transition, "vault"))


@pytest.mark.parametrize("action", SYSTEM_ACTIONS, ids=lambda action: type(action).__name__)
def test_a_system_listener_may_ask_for_it(action: Any) -> None:
    """The action may stand alone or among others."""
    assert read_return(action, system=True) == (action,)
    assert read_return([action, action], system=True) == (action, action)


def test_a_branch_that_may_not_begin_has_failed() -> None:
    """A primitive that is refused inside a branch fails that branch, whatever it answers."""
    frame = at("boss", "clerk", BUFFER, SEQUENCE)
    branch = Branch("outer", 0)
    thread = Thread("t", frame.thread.chain, "t0", branch)
    inside = Frame("c", frame.delivery, thread)
    [result] = planned(inside, fan_out("vault")).results
    assert (result.branch, result.success) == (branch, False)
