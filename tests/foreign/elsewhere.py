"""Somebody else's Celery application: it has none of our code and knows listeners by name alone.

Run it as `python -I elsewhere.py worker|client`, anywhere. ELSEWHERE_BROKER and ELSEWHERE_RESULTS
say where, ELSEWHERE_LISTENERS is the organism's queue; its tasks append what they got to the file
ELSEWHERE_RECORDS, one JSON object per line.
"""

from __future__ import annotations

import importlib
import importlib.abc
import json
import os
import sys
from typing import Any

from celery import Celery

OURS = ("threadloom", "tests")
QUEUE = "elsewhere"


class NotInstalled(importlib.abc.MetaPathFinder):
    """-I hides the checkout; this hides it also where the project itself is installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled())

app = Celery(
    "elsewhere",
    broker=os.environ["ELSEWHERE_BROKER"],
    backend=os.environ["ELSEWHERE_RESULTS"],
)
app.conf.task_default_queue = QUEUE
# A listener's task is not ours to run: it goes where that organism's workers listen.
LISTENERS = os.environ["ELSEWHERE_LISTENERS"]
app.conf.task_routes = [lambda name, *_args, **_kwargs: None if name in app.tasks else LISTENERS]


def _record(task: Any, **fields: Any) -> None:
    line = json.dumps({"task": task.name, "id": task.request.id, **fields}) + "\n"
    with open(os.environ["ELSEWHERE_RECORDS"], "a") as records:
        records.write(line)


@app.task(name="fetch", bind=True)
def fetch(self: Any, payload: Any) -> Any:
    _record(self, got=payload)
    return payload


@app.task(name="store", bind=True)
def store(self: Any, value: Any, label: str, **more: Any) -> str:
    _record(self, got=value, label=label, more={name: repr(each) for name, each in more.items()})
    return f"stored {label}"


@app.task(name="on_error", bind=True)
def on_error(self: Any, task_id: str, label: str) -> None:
    _record(self, failed=task_id, label=label)


def importable() -> list[str]:
    """Which packages of ours this process can import."""
    found = []
    for name in OURS:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        found.append(name)
    return found


def client() -> None:
    """Send what stands on stdin (JSON: a list of [task, args, options]) and print what comes."""
    sent = [app.send_task(name, args, **options) for name, args, options in json.load(sys.stdin)]
    outcomes = []
    for result in sent:
        try:
            outcomes.append({"id": result.id, "value": result.get(timeout=200)})
        except Exception as exc:
            error = [type(exc).__name__, type(exc).__module__, list(exc.args)]
            outcomes.append({"id": result.id, "error": error, "state": result.state})
    json.dump({"importable": importable(), "outcomes": outcomes}, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "client":
        client()
    else:
        assert not importable()
        app.worker_main(
            ["worker", "--loglevel=INFO", "--pool=threads", "--concurrency=4", f"--queues={QUEUE}",
             "--hostname=elsewhere@test", "--without-gossip", "--without-mingle"]
        )  # fmt: skip
