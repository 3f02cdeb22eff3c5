"""The command line, as `python -m threadloom` and as the installed command `threadloom`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line and end the process with its exit status.

    Importing it takes a moment. Ctrl-C meanwhile ends the process at once, as it ends `ls`.
    """
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from threadloom.service import cli

    signal.signal(signal.SIGINT, interrupted)
    cli.main()


if __name__ == "__main__":
    main()
