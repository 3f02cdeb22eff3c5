"""Which files are counted: `census.files`.

Every `.py` file of the library, except for what is not library: installed packages, the two
applications that come along (IDLE and the turtle demos) and the test suites. Of these, the
files that tests keep because they are broken or strangely encoded are counted: a census has
to cope with them.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from examples.census.messages import Census, Failure, Files
from threadloom import HandlerMetadata, HandlerResponse

LEFT_OUT = frozenset({"site-packages", "dist-packages", "idlelib", "turtledemo", "__pycache__"})
TEST_SUITES = frozenset({"test", "tests"})
#: patterns of paths in test suites that are counted all the same
STRANGE_FILES = ("test/bad*.py", "test/tokenizedata/*.py", "lib2to3/tests/data/*.py")
#: what XML has no way to write: control characters, and bytes of names that are no UTF-8
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def list_files(message: Census, _meta: HandlerMetadata) -> HandlerResponse:
    """Reply with the files to count. A root that cannot be read raises."""
    paths = tuple(python_files(Path(message.root)))
    chosen = spread(paths, message.limit) if message.limit else paths
    names = [path.as_posix() for path in chosen]
    return HandlerResponse.respond(
        Files(
            message.root,
            platform.python_version(),
            [name for name in names if not _NO_XML.search(name)],
            [_unnameable(name) for name in names if _NO_XML.search(name)],
        )
    )


def _unnameable(name: str) -> Failure:
    return Failure(repr(name)[1:-1], "its name has characters that XML cannot write")


def python_files(root: Path) -> Iterator[Path]:
    """The paths below `root` of the files to count, in the order of their parts.

    Raises OSError for a folder that cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=stop):
        folders[:] = sorted(set(folders) - LEFT_OUT)
        here = Path(folder).relative_to(root)
        yield from (here / name for name in sorted(names) if is_counted(here / name))


def is_counted(path: Path) -> bool:
    """Whether a file is part of the census; `path` is relative to the root."""
    if path.suffix != ".py" or not LEFT_OUT.isdisjoint(path.parts):
        return False
    if TEST_SUITES.isdisjoint(path.parent.parts):
        return True
    return any(fnmatch(path.as_posix(), pattern) for pattern in STRANGE_FILES)


def spread(paths: tuple[Path, ...], limit: int) -> tuple[Path, ...]:
    """At most `limit` of the paths, evenly spread, always the same ones."""
    count = min(limit, len(paths))
    return tuple(paths[index * len(paths) // count] for index in range(count))
