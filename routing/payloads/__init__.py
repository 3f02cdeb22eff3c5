"""From a class to its wire form and back: payload classes, their codecs, XSDs and elements."""

from threadloom.routing.payloads.definition import WireStyle
from threadloom.routing.payloads.grafting import (
    append_exactly,
    declaring_default,
    saying_default,
    without_stand_ins,
)
from threadloom.routing.payloads.mappings import are_fields, fields_of_list, is_result
from threadloom.routing.payloads.markup import (
    ILLEGAL_CHARACTER,
    XML,
    canonical,
    local_name,
    new_element,
    parse_canonical,
    parse_xml,
    schema_faults,
)
from threadloom.routing.payloads.mending import repair_xml
from threadloom.routing.payloads.payload import (
    PayloadType,
    is_payload,
    payload,
    payload_type,
    styled_payload,
)
from threadloom.routing.payloads.scalars import show

__all__ = [
    "ILLEGAL_CHARACTER",
    "XML",
    "PayloadType",
    "WireStyle",
    "append_exactly",
    "are_fields",
    "canonical",
    "declaring_default",
    "fields_of_list",
    "is_payload",
    "is_result",
    "local_name",
    "new_element",
    "parse_canonical",
    "parse_xml",
    "payload",
    "payload_type",
    "repair_xml",
    "saying_default",
    "schema_faults",
    "show",
    "styled_payload",
    "without_stand_ins",
]
