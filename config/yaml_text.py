"""YAML text to plain data, with every duplicate key and syntax error as a Problem.

Only YAML's own types are built (the safe loader): a tag can name no Python object. A key that
occurs twice in one mapping is a problem, where YAML loaders silently let the last one win.
"""

from __future__ import annotations

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
        problems: list[Problem] = []
        _find_duplicates(root, (), set(), problems)
        return loader.construct_document(root), tuple(problems)
    finally:
        loader.dispose()


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


def _find_duplicates(
    node: yaml.Node, at: tuple[str | int, ...], seen: set[int], problems: list[Problem]
) -> None:
    """Walk the tree before mappings become dicts; `seen` ends the walk at aliases."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _find_duplicates(item, (*at, index), seen, problems)
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
            _find_duplicates(value, here, seen, problems)
