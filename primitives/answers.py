"""How sequence and buffer answer."""

from __future__ import annotations

from threadloom.routing import HandlerResponse
from threadloom.routing.actions import Action, Fault, Forward


def answer(message: object, *, return_to: str = "", failed: bool = False, note: str = "") -> Action:
    """Reply to the caller, or send to `return_to` instead, whose reply then goes to the caller.

    A reply that `failed` is also a failure of the item or step that this primitive is; `note` is
    what operators are told about it, by default the message.
    """
    if return_to:
        return Forward(message, return_to)
    return Fault(message, note or repr(message)) if failed else HandlerResponse.respond(message)
