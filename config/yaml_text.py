"""YAML text to plain data, with every duplicate key and syntax error as a Problem.

Only YAML's own types are built (the safe loader): a tag can name no Python object. A key that
occurs twice in one mapping is a problem, where YAML loaders silently let the last one win; so is
a number that YAML 1.1 reads as octal or to the base of 60. A file whose aliases multiply beyond
`_MOST_REPEATED` values is refused before anything is built from it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from threadloom.config.errors import Problem, place


def parse(text: str) -> tuple[Any, tuple[Problem, ...]]:
    """Return the data of one YAML document and what is wrong with its text.

    The data is None for an empty document and after a syntax error, which is then among the
    problems. Lines and columns count from 1.
    """
    try:
        return _parse(text)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        said = ", ".join(part for part in (exc.context, exc.problem) if part)
        return None, (Problem("", f"not valid YAML: {where}{said}"),)
    except yaml.reader.ReaderError as exc:
        before = text[: exc.position].split("\n")
        where = f"line {len(before)}, column {len(before[-1]) + 1}"
        return None, (
            Problem("", f"not valid YAML: {where}: {exc.reason} (#x{exc.character:04x})"),
        )
    except RecursionError:
        return None, (Problem("", "not readable: nested too deeply"),)


def _parse(text: str) -> tuple[Any, tuple[Problem, ...]]:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, ()
        if _multiplied(root, {}) > _MOST_REPEATED:
            return None, (
                Problem("", "its aliases repeat too much; write out what they stand for"),
            )
        problems: list[Problem] = []
        _find_faults(root, (), set(), problems)
        return loader.construct_document(root), tuple(problems)
    finally:
        loader.dispose()


#: values that a file may stand for, with each alias written out
_MOST_REPEATED = 200_000
#: how the problem of a number begins that is not read as it looks
MISREAD = "YAML reads"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
#: octal (`010`) or to the base of 60 (`1:30`)
_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+(\..*)?|.*:.*)")


class _Loader(yaml.SafeLoader):
    """The safe loader; each of its errors about a value carries the line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as exc:  # ValueError, KeyError, AttributeError: PyYAML guards none of them
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"this is not a valid {kind}; quote it if it is text", node.start_mark
            ) from exc


def _multiplied(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for once its aliases are written out.

    What contains itself counts once; it is reported later, with its place.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = 1
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    known[id(node)] += sum(_multiplied(each, known) for each in inner)
    return known[id(node)]


def _find_faults(
    node: yaml.Node, at: tuple[str | int, ...], seen: set[int], problems: list[Problem]
) -> None:
    """Walk the tree before mappings become dicts; `seen` ends the walk at aliases."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        _check_number(node, at, problems)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _find_faults(item, (*at, index), seen, problems)
    elif isinstance(node, yaml.MappingNode):
        first_lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # not a plain key; the constructor reports it
            here, line = (*at, key.value), key.start_mark.line + 1
            if first := first_lines.get((key.tag, key.value)):
                text = f"this key stands here twice, on line {first} and on line {line}"
                problems.append(Problem(place(*here), text))
            first_lines.setdefault((key.tag, key.value), line)
            _find_faults(value, here, seen, problems)


def _check_number(
    node: yaml.ScalarNode, at: tuple[str | int, ...], problems: list[Problem]
) -> None:
    """Report a number that YAML 1.1 reads otherwise than people do: `010` is 8, `1:30` is 90."""
    if node.tag not in _NUMBERS or not _ODD_NUMBER.fullmatch(node.value):
        return
    try:
        number = yaml.safe_load(node.value)
    except ValueError:
        return  # the constructor reports it
    if str(number) == node.value:
        return
    text = (
        f"{MISREAD} {node.value} as the number {number}; write {number} if you mean that, "
        "else quote it or write it without leading zeros and colons"
    )
    problems.append(Problem(place(*at), text))
