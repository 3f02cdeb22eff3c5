"""Who may send to whom: one rule for calls, forwards, `return_to` and every branch of a fan-out.

What counts are the rights of the *initiator* of a run: the listener itself, or, for a system
listener, the nearest listener up the chain that is none. So a sequence, a buffer, and any nesting
of them reach what their initiator may call, and nothing else. Whoever injected the conversation
may call anybody. Replies are never checked: they go where the call came from.

A join's branches are checked when it is opened; what is supplied to it later was decided then.
"""

from __future__ import annotations

from threadloom.routing.organism import Organism
from threadloom.routing.records import Frame


def refusal(target: str, frame: Frame, organism: Organism) -> str:
    """Why the run of `frame` may not send to `target`, or an empty string if it may.

    The text is for operators: it names listeners and peers. Who is refused is told
    `routing_fault()`, which is the same for an unknown and for a forbidden target.
    """
    listeners = organism.listeners
    if not target:
        return "the call names no listener; HandlerResponse.respond(...) answers the caller"
    if target not in listeners:
        return f"there is no listener {target!r}"
    for name in reversed(frame.thread.chain[1:]):  # the first one injected
        initiator = listeners.get(name)
        if initiator is None:  # it was removed meanwhile, and its rights with it
            return f"{name} may not call {target!r}: there is no listener {name!r} any more"
        if initiator.system:
            continue
        if initiator.peers is None or target in initiator.peers or target == name:
            return ""
        return f"{name} may not call {target!r}: it is not in the peers of {name!r}"
    return ""
