"""Measuring one Python file: `census.measure`.

Complexity is McCabe's: one for each function, plus one for each decision in it. Decisions are
`if`, loops, `except`, conditional expressions, each `and` and `or`, each `for` and `if` of a
comprehension, and each `case` that may not match. Nothing here recurses over the tree, so no
expression is nested too deep for it.

Source: T. J. McCabe, "A Complexity Measure", IEEE Transactions on Software Engineering (1976).
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from examples.census.messages import Function, Measurement, SourceFile
from threadloom import HandlerMetadata, HandlerResponse, Huh

#: what reading, decoding and parsing a file may raise; ValueError: NUL characters, bad UTF-8
UNREADABLE = (OSError, SyntaxError, ValueError, LookupError, RecursionError, MemoryError)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DECISIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)
_REASON_CHARACTERS = 200


def measure_file(message: SourceFile, _meta: HandlerMetadata) -> HandlerResponse:
    """Reply with the file's measurement, or with a `huh` that says why there is none."""
    source = b""
    try:
        source = Path(message.root, message.path).read_bytes()
        return HandlerResponse.respond(measure(message.path, source))
    except UNREADABLE as exc:
        return HandlerResponse.respond(Huh.of(reason_of(exc), source))


def measure(path: str, source: bytes) -> Measurement:
    """Measure a file's source. Raises one of UNREADABLE when it does not decode or parse."""
    text = decode(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old escapes and the like: not what is counted here
        tree = ast.parse(text)
    facts = _look_at(tree)
    functions = facts.functions
    return Measurement(
        path=path,
        lines=text.count("\n") + bool(text and not text.endswith("\n")),
        code_lines=_count_code_lines(text, facts),
        functions=len(functions),
        classes=facts.classes,
        complexity=sum(f.complexity for f in functions) + facts.module.complexity,
        hardest=max(functions, key=lambda f: (f.complexity, -f.line), default=None),
        imports=sorted(facts.imports),
    )


def decode(source: bytes) -> str:
    r"""Return source as text, its lines ended by `\n`; by its BOM or PEP 263 cookie, or UTF-8.

    Raises SyntaxError for a cookie that names no encoding, UnicodeDecodeError (a ValueError)
    or LookupError for bytes or encodings that are no text.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = source.decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def reason_of(exc: BaseException) -> str:
    """Say in one line why a file cannot be measured."""
    match exc:
        case SyntaxError(msg=message, lineno=int(line)) if line > 0:
            text = f"line {line}: {message}"
        case SyntaxError(msg=message):
            text = message
        case OSError(strerror=str(message)):
            text = message
        case _:
            text = str(exc) or type(exc).__name__
    text = " ".join(text.split())
    return text if len(text) <= _REASON_CHARACTERS else f"{text[: _REASON_CHARACTERS - 1]}…"


@dataclass(slots=True)
class _Facts:
    """What one walk over a tree finds."""

    #: the decisions outside of functions
    module: Function = field(default_factory=lambda: Function("", 0, 0))
    functions: list[Function] = field(default_factory=list)
    classes: int = 0
    imports: set[str] = field(default_factory=set)
    #: lines within a text of several lines, which are code whatever they look like
    text_lines: set[int] = field(default_factory=set)
    #: lines of strings that stand alone: documentation
    doc_lines: set[int] = field(default_factory=set)


def _look_at(tree: ast.Module) -> _Facts:
    facts = _Facts()
    #: nodes to visit, each with the function it is in and the prefix of names in it
    waiting: list[tuple[ast.AST, Function, str]] = [(tree, facts.module, "")]
    while waiting:
        node, function, prefix = waiting.pop()
        function.complexity += decisions(node)
        _note(node, facts)
        if isinstance(node, _FUNCTIONS):
            inner = Function(prefix + node.name, node.lineno, 1)
            facts.functions.append(inner)
            # Decorators, defaults and annotations are evaluated outside.
            body = {id(statement) for statement in node.body}
            for child in ast.iter_child_nodes(node):
                if id(child) in body:
                    waiting.append((child, inner, f"{inner.name}."))
                else:
                    waiting.append((child, function, prefix))
            continue
        if isinstance(node, ast.ClassDef):
            prefix = f"{prefix}{node.name}."
        waiting.extend((child, function, prefix) for child in ast.iter_child_nodes(node))
    return facts


def decisions(node: ast.AST) -> int:
    """How many decisions a node takes by itself, its children not counted."""
    match node:
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.match_case(pattern=ast.MatchAs(pattern=None), guard=None):
            return 0
        case ast.match_case():
            return 1
    return int(isinstance(node, _DECISIONS))


def _note(node: ast.AST, facts: _Facts) -> None:
    match node:
        case ast.ClassDef():
            facts.classes += 1
        case ast.Import() | ast.ImportFrom():
            facts.imports.update(_imported(node))
        case ast.Expr(value=ast.Constant(value=str()) as text):
            facts.doc_lines.update(_lines(text))
        case ast.Constant(value=str() | bytes()) | ast.JoinedStr():
            facts.text_lines.update(_lines(node)[1:])


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Top-level names of what is imported; a relative import is of the own package."""
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif node.level == 0 and node.module != "__future__":  # a switch of the compiler's
        yield (node.module or "").partition(".")[0]


def _lines(node: ast.expr) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _count_code_lines(text: str, facts: _Facts) -> int:
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        looks_like_code = bool(bare) and not bare.startswith("#")
        is_code = looks_like_code or number in facts.text_lines
        count += is_code and number not in facts.doc_lines
    return count
