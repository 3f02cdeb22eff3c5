"""An organism given as data is judged as a file is, whatever the data."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadloom import config
from threadloom.config import ConfigurationError, OrganismConfig
from threadloom.config.yaml_text import parse


def minimal(**keys: object) -> dict[str, object]:
    listener = {
        "name": "a",
        "payload_class": "threadloom.config.Problem",
        "handler": "operator.eq",
        "description": "x",
    }
    return {"organism": {"name": "desk"}, "listeners": [listener | keys]}


def test_a_mapping_is_read_like_a_file() -> None:
    """An in-process organism needs no file; errors carry the name that the caller gave."""
    found = config.load_mapping(minimal(peers=("a",)), source="inline")
    assert (found.listeners[0].peers, found.source) == (("a",), "inline")
    with pytest.raises(ConfigurationError, match=r"^inline: 1 problem\n  listeners\[0\]\.peers"):
        config.load_mapping(minimal(peers=["b"]), source="inline")
    assert config.read_mapping(None)[1][0].message.endswith("not nothing")


def test_equal_files_are_equal_wherever_a_listener_stands() -> None:
    """Hot reload compares listeners: moving one within the file does not change it."""
    first = config.load_mapping(minimal())
    moved = config.load_mapping(
        {**minimal(), "listeners": [*minimal(name="b")["listeners"], *minimal()["listeners"]]}  # type: ignore[misc]
    )
    assert moved.listeners[1] == first.listeners[0]
    assert moved.listeners[1].position != first.listeners[0].position
    assert moved != first
    assert config.load_mapping(minimal()) == first


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LISTENER_KEYS = st.sampled_from([*config.ListenerConfig.model_fields, "broadcast", "nmae"])
ORGANISM_KEYS = st.sampled_from([*config.OrganismSection.model_fields, "streams"])
LISTENERS = st.lists(JSON | st.dictionaries(LISTENER_KEYS, JSON), max_size=3)
FILES = st.fixed_dictionaries(
    {"organism": JSON | st.dictionaries(ORGANISM_KEYS, JSON), "listeners": JSON | LISTENERS}
)


@given(data=JSON | FILES)
def test_whatever_a_file_holds_it_is_judged_and_never_crashes(data: object) -> None:
    """Any data gives either problems or a sound organism, and the remaining settings can always
    be shown.
    """
    found, problems = config.read_mapping(data, environ={})
    assert isinstance(found, OrganismConfig)
    assert all(problem.message for problem in problems)
    assert json.dumps(found.sanitized(), allow_nan=False)
    assert repr(found)


@given(text=st.text())
def test_whatever_text_a_file_holds_it_is_judged(text: str) -> None:
    """Any YAML text gives either problems or a sound organism."""
    _, problems = parse(text)
    assert all(problem.message for problem in problems)
