"""How an element gets into a larger tree with its canonical form unchanged, prefixes included.

Namespace-equal is not enough: not for a signature over the element, and not for `results`,
which promises its items exactly. `append_exactly` puts an element in, and once the tree is
complete `without_stand_ins` returns it whole.
"""

from __future__ import annotations

import base64
import re

from lxml import etree

from threadloom.routing.payloads.markup import canonical, parse_canonical

_STAND_IN = "raw"
_STAND_INS = re.compile(rb"<\?raw ([A-Za-z0-9+/=]+)\?>")


def append_exactly(parent: etree._Element, child: etree._Element) -> None:
    """Append `child` so that its canonical form stays what it is; it may become a stand-in.

    Moving an element, lxml drops a declaration whose namespace an ancestor has under another
    prefix and renames what used it. Where that changes the canonical form, a processing
    instruction with that form stands in until `without_stand_ins` is called on the root. No
    other one occurs: the parser refuses them.
    """
    before = canonical(child)
    parent.append(child)
    if b"xmlns" in before and canonical(child) != before:
        parent.remove(child)
        parent.append(etree.PI(_STAND_IN, base64.b64encode(saying_default(before)).decode()))


def without_stand_ins(root: etree._Element) -> etree._Element:
    """Return the tree with what `append_exactly` could not put into it in place."""
    if next(root.iter(etree.PI), None) is None:
        return root
    return parse_canonical(_STAND_INS.sub(lambda m: base64.b64decode(m[1]), canonical(root)))


def declaring_default(element: etree._Element) -> etree._Element:
    """Return a copy that declares `xmlns=""` where it declares no other default namespace."""
    return parse_canonical(saying_default(canonical(element)))


def saying_default(text: bytes) -> bytes:
    """Return a canonical element that says `xmlns=""` itself where it says no other default."""
    name = text[: text.index(b">")].partition(b" ")[0]
    rest = text[len(name) :]
    return text if rest.startswith(b' xmlns="') else b"".join((name, b' xmlns=""', rest))
