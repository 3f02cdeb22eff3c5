"""The Lua scripts as they are sent to Redis: each with what it includes, and with its names.

A script says in its first line what it needs: `-- @include branches, leases` are files of
`lua/lib`, which may include others. Each is put in front of it once, those that it builds on
first. The names of `layout.py` are written out, and the replies of `replies.py` that occur in it
stand in front of all. So a script carries what it uses and no more: Redis runs all of it at every
call.

Source of the include line: BullMQ, whose scripts name what they include in the same way.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from importlib.resources import files

from threadloom.routing.backends.redis.layout import lua_constants, lua_keys
from threadloom.routing.backends.redis.replies import lua_functions

_INCLUDE = re.compile(r"^-- @include (.+)$", re.MULTILINE)
_NAME = re.compile(r"\b[A-Za-z_]\w*\b")
_TEXT_OR_COMMENT = re.compile(r"'[^'\n]*'|--[^\n]*")
_TOKEN = re.compile(rf"{_TEXT_OR_COMMENT.pattern}|{_NAME.pattern}")


class IncludeError(ValueError):
    """A script includes what is not there, or itself."""


def load_scripts() -> Mapping[str, str]:
    """Every script by its name, complete."""
    folder = files("threadloom.routing.backends.redis") / "lua"
    library = folder / "lib"

    @functools.cache
    def part(name: str) -> str:
        file = library / f"{name}.lua"
        if not file.is_file():
            raise IncludeError(f"there is no lua/lib/{name}.lua to include")
        return file.read_text()

    names = (file.name for file in folder.iterdir() if file.name.endswith(".lua"))
    return {
        name.removesuffix(".lua"): assemble((folder / name).read_text(), part)
        for name in sorted(names)
    }


def assemble(source: str, part: Callable[[str], str]) -> str:
    """A script with what it includes, which `part` gives by name. Raises IncludeError."""
    bodies: list[str] = []
    done: set[str] = set()

    def add(text: str, within: tuple[str, ...]) -> None:
        for name in includes(text):
            if name in within:
                raise IncludeError(f"{' includes '.join((*within, name))}")
            if name not in done:
                done.add(name)
                add(part(name), (*within, name))
        bodies.append(_INCLUDE.sub("", text))

    add(source, ())
    return _named("\n".join(bodies))


def includes(text: str) -> list[str]:
    """What a file says it includes."""
    return [name.strip() for line in _INCLUDE.findall(text) for name in line.split(",")]


def _named(body: str) -> str:
    """The same with its shared names: constants written out, keys and replies defined in front.

    A constant that is written out costs nothing; as a local of the script it would have to be
    handed to every function that uses it, at every call.
    """
    constants = lua_constants()
    body = _TOKEN.sub(lambda token: constants.get(token[0], token[0]), body)
    used = set(_NAME.findall(_TEXT_OR_COMMENT.sub("", body)))
    keys = [f"local {name} = {key}\n" for name, key in lua_keys().items() if name in used]
    replies = [f"{text}\n" for name, text in lua_functions().items() if name in used]
    return "".join((*keys, *replies, body))
