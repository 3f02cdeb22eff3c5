"""DBOS's side of the contests, on SQLite: steps of a workflow, and a queue of workflows.

DBOS runs inside its application, so this is a process of its own, which does what a line on its
standard input says and answers with the seconds it took:

    steps 100 | fan 1000 | enqueue 1000

Each step is written to the database before the next one begins, and a workflow goes on where it
was after a crash, in the process that comes next. There is no broker, and one process.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path

from dbos import DBOS, Queue

_queue = Queue("contest", worker_concurrency=16, polling_interval_sec=0.01)


@DBOS.step()
def step(left: int) -> int:
    """One hop."""
    return left - 1


@DBOS.workflow()
def flow(hops: int) -> int:
    """So many steps."""
    left = hops
    for _ in range(hops):
        left = step(left)
    return left


@DBOS.workflow()
def item(left: int) -> int:
    """One item of a fan-out."""
    return left - 1


def fan(items: int) -> None:
    """So many items through a queue, until the last one is done."""
    handles = [_queue.enqueue(item, n) for n in range(items)]
    for handle in handles:
        handle.get_result()


def enqueue(items: int) -> float:
    """So many items into a queue; the seconds until they are in. It returns when they are done."""
    began = time.perf_counter()
    handles = [_queue.enqueue(item, n) for n in range(items)]
    took_s = time.perf_counter() - began
    for handle in handles:
        handle.get_result()
    return took_s


def main() -> None:
    """Do what the lines say."""
    with tempfile.TemporaryDirectory() as folder:
        logging.disable(logging.WARNING)
        database = f"sqlite:///{Path(folder) / 'dbos.sqlite'}"
        DBOS(config={"name": "contest", "system_database_url": database, "run_admin_server": False})
        DBOS.launch()
        print("ready", flush=True)
        for line in sys.stdin:
            what, count = line.split()
            began = time.perf_counter()
            if what == "steps":
                flow(int(count))
            elif what == "fan":
                fan(int(count))
            took_s = enqueue(int(count)) if what == "enqueue" else time.perf_counter() - began
            print(f"took {took_s}", flush=True)
        DBOS.destroy()


if __name__ == "__main__":
    main()
