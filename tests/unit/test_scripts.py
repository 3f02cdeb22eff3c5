"""The registry's Lua: what a script includes, and the names that it shares with Python."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from threadloom.routing.backends.redis import layout, replies
from threadloom.routing.backends.redis.scripts import IncludeError, assemble, includes, load_scripts

PARTS = {
    "ground": "local function ground() return 1 end\n",
    "walls": "-- @include ground\nlocal function walls() return ground() end\n",
    "roof": "-- @include walls, ground\nlocal function roof() return walls() + ground() end\n",
    "snake": "-- @include tail\n",
    "tail": "-- @include snake\n",
}
#: the names that Redis gives to a script, and Lua's keywords
GIVEN = {"redis", "cjson", "string", "math", "table", "unpack", "tonumber", "tostring", "ipairs",
         "pairs", "next", "setmetatable", "KEYS", "ARGV"}  # fmt: skip
WORDS = {
    "and",
    "break",
    "do",
    "else",
    "elseif",
    "end",
    "false",
    "for",
    "function",
    "if",
    "in",
    "local",
    "nil",
    "not",
    "or",
    "repeat",
    "return",
    "then",
    "true",
    "until",
    "while",
}


def part(name: str) -> str:
    if name not in PARTS:
        raise IncludeError(name)
    return PARTS[name]


def test_what_is_included_stands_in_front_once_and_in_order() -> None:
    """`roof` needs `walls`, and both need `ground`, which comes first and only once."""
    text = assemble("-- @include roof, ground\nreturn roof()\n", part)
    assert re.findall(r"function (\w+)", text) == ["ground", "walls", "roof"]
    assert "@include" not in text


@pytest.mark.parametrize("name", ["nobody", "snake"])
def test_an_include_that_cannot_be_is_told(name: str) -> None:
    """The error names a missing file, or files that include each other."""
    with pytest.raises(IncludeError, match=name):
        assemble(f"-- @include {name}\n", part)


def test_a_script_carries_the_names_that_it_uses_and_no_others() -> None:
    """Constants are replaced by their values, but not in comments and texts; keys and replies
    are defined.
    """
    text = assemble("-- STATE_HELD\nreturn {STATE_SENT, 'DUE', DEAD, reply_late({})}\n", part)
    assert "return {'sent', 'DUE', DEAD, reply_late({})}" in text
    assert "-- STATE_HELD" in text
    assert "local DEAD = KEYS[10]" in text
    assert "local function reply_late(f) return {'late'} end" in text
    assert "local DUE" not in text


def test_a_reply_is_read_by_the_names_that_it_was_written_with() -> None:
    """Lua's function and Python's class take the fields in one order; a missing field is None."""
    text = replies.lua_functions()["reply_release"]
    assert text.endswith(
        "return {'release', f.status or false, f.value or false, f.attempt or false} end"
    )
    assert replies.read([b"release", b"completed", None, 2]) == (b"completed", None, 2)


@pytest.mark.parametrize("name", load_scripts())
def test_every_name_of_a_script_is_defined(name: str) -> None:
    """Redis reports an undefined name only when a call reaches it, which may happen rarely."""
    text = re.sub(r"'[^'\n]*'|--[^\n]*", "", load_scripts()[name])
    lists = [
        *re.findall(r"\blocal ([\w, ]+)", text),
        *re.findall(r"\bfor ([\w, ]+)(?: in\b|=)", text),
        *re.findall(r"\bfunction \w+\(([\w, ]*)\)", text),
        *re.findall(r"\bfunction (\w+)", text),
    ]
    defined = {each.strip() for names in lists for each in names.split(",")}
    fields = r"\w+(?= = )"  # of a table, or what is assigned
    used = set(re.findall(rf"(?<![.\w])(?!{fields})[A-Za-z_]\w*", text))
    assert used - defined - GIVEN - WORDS == set()


def test_every_part_is_included_by_somebody() -> None:
    """A file that no script includes is dead, and a missing file cannot be included."""
    folder = files("threadloom.routing.backends.redis") / "lua"
    library = list((folder / "lib").iterdir())
    scripts = [file for file in folder.iterdir() if file.name.endswith(".lua")]
    named = {name for file in (*library, *scripts) for name in includes(file.read_text())}
    assert named == {file.name.removesuffix(".lua") for file in library}


def test_no_code_means_two_things() -> None:
    """Each field of a record and each kind of member has a code of its own."""
    for enum in (layout.Field, layout.ConversationField, layout.DueKind):
        codes = [str(member) for member in enum.__members__.values()]
        assert len(set(codes)) == len(codes)
    assert len(layout.Field) == len(layout.Field.__members__), "no alias"
