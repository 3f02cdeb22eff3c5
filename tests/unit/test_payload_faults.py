"""The error payloads: their quotations are cut and clean, and their texts reveal no secret."""

from __future__ import annotations

import inspect

import pytest

from threadloom.routing import faults
from threadloom.routing.faults import MAX_ATTEMPT_BYTES, MAX_ERROR_CHARS, Huh
from threadloom.routing.payloads import payload_type

CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("attempt", "kept"),
    [
        (b"\x00\xff", b"\x00\xff"),
        ("é", "é".encode()),
        ("\ud800", b"\\ud800"),
        ({"a": 1}, b'{"a": 1}'),
        ({"a": {1, 2}}, b'{"a": "{1, 2}"}'),
        ({(1, 2): 3}, b"a dict that JSON cannot carry"),
        (CYCLE, b"a list that JSON cannot carry"),
        (None, b"null"),
        ("x" * 100_000, b"x" * MAX_ATTEMPT_BYTES),
        ("é" * 100_000, "é".encode() * (MAX_ATTEMPT_BYTES // 2)),
    ],
)
def test_a_huh_gives_back_how_the_attempt_began(attempt: object, kept: bytes) -> None:
    """The sender may have sent anything; the `huh` returns its first 4 KiB as bytes."""
    huh = Huh.of("why", attempt)
    assert huh == Huh("why", kept)
    kind = payload_type(Huh)
    assert kind.from_element(kind.to_element(huh)) == huh


def test_error_texts_are_always_xml() -> None:
    """Error texts quote parsers and senders, so they may contain anything at any length."""
    kind = payload_type(Huh)
    assert Huh.of("a\0b\ud800", b"").error == "a\ufffdb\ufffd"
    assert len(Huh.of("x" * 100_000, b"").error) == MAX_ERROR_CHARS
    kind.to_element(Huh.of("\x01" * 100_000, b""))


def test_every_fault_is_valid_and_names_nobody() -> None:
    """Each constructor makes a payload of its own code, two of them a variant of another's.

    "Unknown" and "forbidden" have one text.
    """
    variants = {"silent_fault": "handler", "bytes_fault": "limit"}
    made = {
        name: make()
        for name, make in inspect.getmembers(faults, inspect.isfunction)
        if name.endswith("_fault")
    }
    kind = payload_type(faults.SystemError)
    for name, fault in made.items():
        assert kind.from_element(kind.to_element(fault)) == fault
        assert fault.code == variants.get(name, name.removesuffix("_fault"))
    assert {f.code for f in made.values()} == set(faults.Code.__args__)  # type: ignore[attr-defined]
    assert made["routing_fault"] == faults.routing_fault()
    assert faults.handler_fault(retry_allowed=True).retry_allowed
    assert faults.validation_fault("a\0").message == "a\ufffd"
