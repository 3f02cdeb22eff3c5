"""The command `threadloom`; what its subcommands do stands in `service.commands`.

0  done
1  the conversation failed, or the worker ended by itself
2  what was asked for cannot be: an organism with problems, an unknown listener or id
3  no answer in time
4  nothing runs there, or its Redis does not answer
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

_INVALID = 2


def main() -> None:
    """Run the command line and end the process with its exit status."""
    startup = runpy.run_path(str(Path(__file__).parents[1] / "config" / "startup.py"))
    try:
        startup["require_own_packages"]()
    except ImportError as exc:
        sys.stderr.write(f"Error: {exc}\n")
        sys.exit(_INVALID)
    from service.commands import run  # only now is it sure whose modules these are

    sys.exit(run())


if __name__ == "__main__":
    main()
