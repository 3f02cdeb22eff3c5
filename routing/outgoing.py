"""Payloads on their way out: serialised once, with what the planner has to know of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lxml import etree
from msgspec import Struct

from threadloom.routing.faults import Huh, SystemError  # the wire format's name
from threadloom.routing.payloads import XML, payload_type
from threadloom.routing.records import Ending
from threadloom.routing.states import ConversationStatus

_FAULTS = {kind.tag: kind for kind in map(payload_type, (Huh, SystemError))}


class Content(Struct, frozen=True):
    """A payload on its way out."""

    element: etree._Element
    name: str
    #: dotted path of its class; "" for a raw element
    path: str
    #: a `SystemError` or `huh`
    is_fault: bool
    #: makes `value`, which few contents are asked for
    to_value: Callable[[], Any] = lambda: None

    @property
    def value(self) -> Any:
        """JSON-able form, for whoever injected the conversation."""
        return self.to_value()


def content_of(payload: Any) -> Content:
    """Serialise a payload object. Raises InvalidPayloadError or PayloadDefinitionError."""
    if isinstance(payload, XML):
        element = payload.element
        fault = _FAULTS.get(element.tag)
        if fault is not None:  # whoever says so in XML says it all the same
            return content_of(fault.from_element(element))
        name = etree.QName(element).localname
        return Content(element, name, "", False, lambda: payload.text)
    kind = payload_type(type(payload))
    element = kind.to_element(payload)
    is_fault = isinstance(payload, SystemError | Huh)
    return Content(element, kind.name, kind.path, is_fault, lambda: kind.to_json(payload))


def ending_of(content: Content, thread_id: str, *, repairs: str = "") -> Ending:
    """How a first-hop reply ends the conversation for whoever injected it.

    `repairs` says what was repaired in the injected XML; the value then carries it as `huh`.
    """
    if not content.is_fault:
        value = {"type": content.name, "payload": content.value, "thread": thread_id}
        if repairs:
            value["huh"] = repairs
        return Ending(ConversationStatus.COMPLETED, value)
    return Ending(ConversationStatus.ERROR, _fault_value(content.value))


def _fault_value(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if "error" in value:
        return {"code": "validation", "message": value["error"], "retry_allowed": False}
    return {
        "code": value["code"],
        "message": value["message"],
        "retry_allowed": value["retry_allowed"],
    }
