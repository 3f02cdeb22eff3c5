"""Values from the environment, and the masking of secrets in a configuration.

`expand` replaces `${NAME}` in the texts of a file; `shown` returns any value in the form that may
appear in a repr, a log, the API or an error. Masking rather hides too much: a text that merely
looks like a URL with a password loses more than its password. Numbers are never masked, because
no number of a model is a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

MASK = "***"

_TELLTALE = (
    r"(?:passw|passphrase|secret|token|credential|auth_?key"
    r"|(?:api|access|private|security|encryption|signing)[_-]?key)"
)
_SECRET_KEY = re.compile(_TELLTALE, re.IGNORECASE)
#: `scheme://user:password@`: up to the last @ of the line, since passwords may hold / and @
_URL_PASSWORD = re.compile(r"([A-Za-z][\w+.-]*://[^\s:/@]*):[^\n]*@")
#: `scheme://token@`
_URL_USER = re.compile(r"([A-Za-z][\w+.-]*://)[^\s:/@?#]+@")
_URL_QUERY = re.compile(rf"([?&;][\w.-]*{_TELLTALE}[\w.-]*=)[^&#\s]*", re.IGNORECASE)

_REFERENCE = re.compile(
    r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?"
)


class EnvironmentText(str):
    """A text in which `${NAME}` was replaced.

    Code sees the plain value: comparing, formatting and encoding use what the environment holds.
    Its repr is the text as written in the file, so that printing a structure leaks nothing.
    """

    #: the text of the file, without defaults: `redis://:${REDIS_PASSWORD}@cache`
    shown: str

    def __new__(cls, value: str, shown: str) -> EnvironmentText:
        text = super().__new__(cls, value)
        text.shown = shown
        return text

    def __repr__(self) -> str:
        return repr(self.shown)

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.shown


class Expansion(NamedTuple):
    """A text with its references replaced."""

    text: str
    #: name to value (or default) of each variable that was used
    values: Mapping[str, str]
    #: faults of the references; with any fault the text must not be used
    faults: tuple[str, ...]


def expand(text: str, environ: Mapping[str, str]) -> Expansion:
    """Replace `${NAME}` and `${NAME:-default}` in `text`; `$${` stands for `${` itself.

    A default also replaces an empty variable, as in a shell, and may not contain `}`. References
    inside a value are not replaced. The text is an EnvironmentText if anything was replaced.
    """
    values: dict[str, str] = {}
    faults: list[str] = []
    shown: list[str] = []
    parts: list[str] = []
    end = 0
    for reference in _REFERENCE.finditer(text):
        literal, end = text[end : reference.start()], reference.end()
        value, as_shown, fault = _replacement(reference, environ)
        parts += literal, value
        shown += literal, as_shown
        if fault:
            faults.append(fault)
        elif name := reference["name"]:
            values[name] = value
    expanded = "".join([*parts, text[end:]])
    if values:
        expanded = EnvironmentText(expanded, "".join([*shown, text[end:]]))
    return Expansion(expanded, values, tuple(faults))


def _replacement(
    reference: re.Match[str], environ: Mapping[str, str]
) -> tuple[str, str, str | None]:
    """Return the value, the form in which it is shown, and the fault or None."""
    name, default = reference["name"], reference["default"]
    if reference[0] == "$${":
        return "${", "${", None
    if name is None:
        return "", "", "'${' does not begin a ${NAME}; write $${ for the characters themselves"
    value = environ.get(name)
    if default is not None and not value:
        value = default
    if value is None:
        return "", "", f"the environment has no variable {name}"
    return value, f"${{{name}}}", None


def masked(text: str) -> str:
    """Return `text` without values from the environment and without passwords in URLs."""
    text = text.shown if isinstance(text, EnvironmentText) else str(text)
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = _URL_USER.sub(rf"\1{MASK}@", text)
    return _URL_QUERY.sub(rf"\1{MASK}", text)


def shown(value: object, key: object = "") -> object:
    """Return `value` with its secrets masked, as JSON-able data.

    `key` is the key of the value in its mapping; every value under a key like `password`,
    `secret`, `token` or `api_key` becomes `***`.
    """
    if isinstance(key, str) and _SECRET_KEY.search(key) and value is not None:
        return MASK
    match value:
        case str():
            return masked(value)
        case Mapping():
            return {masked(str(k)): shown(v, k) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [shown(item) for item in value]
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float():
            return value
        case date():
            return value.isoformat()
        case _:
            return type(value).__name__


def described(value: object) -> str:
    """Return `value` for an error message: masked, shortened; of a container only its kind."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case Mapping():
            return "a mapping"
        case list() | tuple() | set():
            return "a list"
        case str():
            text = masked(value)
            return repr(text if len(text) <= 60 else text[:57] + "...")
        case _:
            return str(shown(value))
