"""An organism beside others: plain tasks in its worker, other organisms on its broker.

What delivery stands on is set on the listeners' tasks. Everything else in the same worker behaves
as on a stock one, and no message of one organism is carried out by another.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection

from tests.desk import close_app, plain_app
from tests.harness import (
    ATTACHED,
    ORGANISMS,
    START_TIMEOUT_S,
    WAIT_S,
    Deployment,
    NewBroker,
    adjusted,
    eventually,
)
from threadloom import tasks
from threadloom.config import ConfigurationError
from threadloom.config.celery_settings import celery_url
from threadloom.routing.backends import MemoryBackend
from threadloom.tasks.claims import claim_queues
from threadloom.tasks.unacknowledged import STALE_S

pytest_plugins = ["tests.broker_fixtures"]

#: longer than a message of a listener may lie in a worker's hand without a word of it
PATIENT_S = STALE_S + 3
#: what a `worker` does that waits until its gate lets it pass
WAITS = {"how": "gate", "what": "held"}


@pytest.fixture
def team(deployment_url: Callable[[], str], tmp_path: Path) -> Iterator[Deployment]:
    """The team's app with the works attached; a test starts its workers."""
    deployment = Deployment(
        ORGANISMS / "works" / "organism.yaml",
        redis_url=deployment_url(),
        directory=tmp_path,
        broker_url=ATTACHED,
    )
    yield deployment
    deployment.close()


def test_the_teams_own_tasks_are_celerys(team: Deployment) -> None:
    """One that waits for its time, one that retries and one that kills its process.

    Each runs as often as on a stock worker, though a message of a listener that lay in a worker's
    hand for so long would be handed out again.
    """
    worker = team.start_worker(concurrency=2)
    later = team.app.send_task("team.note", ["later"], countdown=PATIENT_S)
    again = team.app.send_task("team.again", [PATIENT_S / 2])
    fatal = team.app.send_task("team.fatal")
    assert team.ask("copier", {"value": "x"})["payload"] == {"value": "x"}, "a listener runs, too"
    assert later.get(timeout=PATIENT_S + WAIT_S) == "later"
    assert again.get(timeout=2 * PATIENT_S + WAIT_S) == "done"
    assert len(team.records(event="note")) == 1
    assert [r["retries"] for r in team.records(event="again")] == [0, 1, 2]
    assert len(team.records(event="fatal", task=fatal.id)) == 1
    assert worker.process.poll() is None


def test_the_app_keeps_its_settings_its_queues_and_its_tasks(team: Deployment) -> None:
    """Nothing of the app is changed but what is added: listeners, their queues, two bootsteps."""
    plain = Celery("plain", broker=team.app.conf.broker_url, set_as_current=False)
    for name in ("task_acks_late", "task_reject_on_worker_lost", "task_serializer",
                 "accept_content", "task_default_queue", "task_queues", "task_routes",
                 "worker_prefetch_multiplier", "broker_transport_options"):  # fmt: skip
        assert team.app.conf[name] == plain.conf[name], name
    assert set(team.app.amqp.queues.consume_from) == {"celery", "works", "lobby"}
    copier, note = team.app.tasks["copier"], team.app.tasks["team.note"]
    assert (copier.acks_late, copier.reject_on_worker_lost) == (True, True)
    assert (note.acks_late, note.reject_on_worker_lost, note.time_limit) == (False, None, None)


def test_the_teams_own_code_sends_to_a_listener_without_naming_its_queue(team: Deployment) -> None:
    """By name, by the task, and by a signature: the app knows where its listeners are served."""
    team.start_worker(concurrency=1, options=("-Q", "works"))
    sent = [
        team.app.send_task("copier", [{"value": "a"}]),
        team.app.tasks["copier"].delay({"value": "b"}),
        team.app.signature("copier", [{"value": "c"}]).apply_async(),
    ]
    assert len({result.get(timeout=WAIT_S)["thread"] for result in sent}) == 3


def test_what_a_killed_worker_had_in_hand_goes_on(team: Deployment) -> None:
    """Plain messages that a worker has taken ahead of time are in no registry, and not lost.

    Celery would hand them out an hour after the worker was killed.
    """
    first = team.start_worker(concurrency=1)
    app = plain_app(team)
    results = [app.send_task("worker", [WAITS]) for _ in range(4)]
    client = redis.Redis.from_url(team.redis_url)
    eventually(lambda: client.hlen("unacked") == len(results), what="all are in its hand")
    first.kill()
    client.rpush("gate:held", *["pass"] * 5 * len(results))  # a handler may run more than once
    team.start_worker(concurrency=2)
    for result in results:
        assert result.get(timeout=STALE_S + 2 * WAIT_S)["type"]
    close_app(app)


def test_what_waits_in_a_workers_hand_is_not_published_again(team: Deployment) -> None:
    """A stock worker takes four messages for each process; three of them wait for the first.

    The worker tells the registry again and again that it has them, and no copy is made.
    """
    team.start_worker(concurrency=1)
    results = [team.inject("worker", WAITS) for _ in range(4)]
    client = redis.Redis.from_url(team.redis_url)
    eventually(lambda: client.hlen("unacked") == len(results), what="all are in its hand")
    last = f"|{results[-1].id}"
    seen: set[float] = set()

    def vouched_for() -> bool:
        for key in client.scan_iter(match="tl:works:*sent"):
            for member, at in client.zrange(key, 0, -1, withscores=True):
                if member.decode().endswith(last):
                    seen.add(at)
        return len(seen) > 2

    eventually(vouched_for, what="the worker vouched for the last one, and again")
    assert client.hlen("unacked") == len(results)
    assert client.llen("works") == 0
    client.rpush("gate:held", *["pass"] * len(results))
    for result in results:
        result.get(timeout=WAIT_S)


NEIGHBOUR = """
from celery import current_app, shared_task
@shared_task(name="near.shared")
def shared(x): return x + 1
@current_app.task(name="near.current")
def current(x): return x + 2
"""


def test_plain_tasks_live_in_our_own_worker(
    deployment_url: Callable[[], str], tmp_path: Path
) -> None:
    """`celery: {imports: [...]}`: shared tasks and those of the current app, served beside ours."""
    (tmp_path / "near.py").write_text(NEIGHBOUR)
    desk = ORGANISMS / "desk" / "organism.yaml"
    organism = adjusted(desk, tmp_path, celery={"imports": ["near"]})
    deployment = Deployment(organism, redis_url=deployment_url(), directory=tmp_path)
    deployment.directory_of_workers = tmp_path  # which `celery` puts on the path, as ever
    try:
        deployment.start_worker(concurrency=1)
        assert deployment.app.send_task("near.shared", [1]).get(timeout=WAIT_S) == 2
        assert deployment.app.send_task("near.current", [1]).get(timeout=WAIT_S) == 3
        assert deployment.app.conf.task_acks_late is False
        assert "visibility_timeout" not in deployment.app.conf.broker_transport_options
    finally:
        deployment.close()


@pytest.mark.both_brokers
def test_a_worker_refuses_a_queue_that_another_organism_serves(
    deployment_url: Callable[[], str], broker: NewBroker, tmp_path: Path
) -> None:
    """The desk serves `shared`; the strict organism would take its messages, and does not start."""
    url, broker_url = deployment_url(), broker()
    if broker_url == ATTACHED:
        broker_url = None
    ours: dict[str, Any] = {"queue": "shared"}
    if broker_url is not None:
        ours["celery"] = {"broker_url": broker_url}
    (tmp_path / "other").mkdir()
    first = Deployment(
        adjusted(ORGANISMS / "desk" / "organism.yaml", tmp_path, **ours),
        redis_url=url, directory=tmp_path,
    )  # fmt: skip
    second = Deployment(
        adjusted(ORGANISMS / "strict" / "organism.yaml", tmp_path / "other", **ours),
        redis_url=url, directory=tmp_path / "other",
    )  # fmt: skip
    try:
        first.start_worker(concurrency=1)
        refused = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "threadloom", "worker", "-c", "1"],
            env=second._environment(), capture_output=True, text=True,
            timeout=START_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert refused.returncode != 0
        assert "'desk'" in refused.stderr
        assert "'shared'" in refused.stderr
        assert "the key `queue`" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert first.ask("clerk", {"number": 1})["payload"] == {"text": "2"}
        first.start_worker(concurrency=1)  # its own workers, as many as it likes
    finally:
        first.close()
        second.close()


@pytest.mark.both_brokers
def test_a_claim_is_one_organisms_until_it_lapses(
    deployment_url: Callable[[], str], broker: NewBroker
) -> None:
    """The first one has it, again and again; any other is told who does; other queues are free."""
    url = broker()
    with Connection(url if url and url != ATTACHED else celery_url(deployment_url())) as connection:
        for _ in range(2):
            assert claim_queues(connection, ["a", "b"], "desk") == {}
            assert claim_queues(connection, ["b", "c"], "it's-me") == {"b": "desk"}


def test_a_message_of_another_organism_is_left_to_it(
    deployment_url: Callable[[], str], tmp_path: Path
) -> None:
    """One that lies in our queue all the same is not carried out here, and not lost there.

    The worker says so at ERROR; the organism that it belongs to publishes it again.
    """
    url = deployment_url()
    desk = Deployment(ORGANISMS / "desk" / "organism.yaml", redis_url=url, directory=tmp_path)
    (tmp_path / "other").mkdir()
    other = Deployment(
        adjusted(ORGANISMS / "desk" / "organism.yaml", tmp_path / "other", name="other"),
        redis_url=url, directory=tmp_path / "other",
    )  # fmt: skip
    try:
        worker = other.start_worker(concurrency=1)
        result = desk.inject("clerk", {"number": 41})
        client = redis.Redis.from_url(url)
        assert client.lmove("desk", "other")
        eventually(lambda: "message.of_another_organism" in worker.output, what="a word of it")
        assert other.records() == []
        desk.start_worker(concurrency=1)
        assert result.get(timeout=WAIT_S)["payload"] == {"text": "42"}
        assert other.records() == []
    finally:
        desk.close()
        other.close()


@pytest.mark.parametrize("header", [["desk"], 5, "another"])
def test_a_header_that_anybody_wrote_loses_no_message(team: Deployment, header: object) -> None:
    """A payload with our header on it is in no registry: it is taken for what it is."""
    team.start_worker(concurrency=1)
    app = plain_app(team)
    sent = app.send_task("copier", [{"value": "x"}], headers={"threadloom_organism": header})
    assert sent.get(timeout=WAIT_S)["payload"] == {"value": "x"}
    close_app(app)


@pytest.fixture
def team_app() -> Iterator[Celery]:
    """An app that reaches nobody."""
    app = Celery("team", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


@pytest.mark.parametrize(
    ("settings", "section", "problem"),
    [
        ({}, {"celery": {"task_acks_late": True}}, "organism.celery.task_acks_late: is the attach"),
        ({"accept_content": ["pickle"]}, {}, "accept_content: has to contain 'json'"),
        ({"task_always_eager": True}, {}, "task_always_eager: has to stay False"),
        ({"task_protocol": 1}, {}, "task_protocol: has to stay 2"),
        ({"task_routes": {"clerk": {"exchange": "x"}}}, {}, "task_routes: sends 'clerk' to an exc"),
    ],
)
def test_what_cannot_be_attached_is_told(
    team_app: Celery, tmp_path: Path, settings: dict[str, Any], section: dict[str, Any],
    problem: str,
) -> None:  # fmt: skip
    """A setting is kept or refused; the text says where it belongs."""
    team_app.conf.update(settings)
    organism = adjusted(ORGANISMS / "desk" / "organism.yaml", tmp_path, **{"celery": {}, **section})
    with pytest.raises(ConfigurationError) as caught:
        tasks.attach(team_app, organism, backend=MemoryBackend(organism="desk"))
    assert problem in str(caught.value)


def test_names_and_organisms_are_attached_once(team_app: Celery, tmp_path: Path) -> None:
    """A task of the app named like a listener, and a second organism on one app."""
    organism = adjusted(ORGANISMS / "desk" / "organism.yaml", tmp_path, celery={})

    @team_app.task(name="clerk", shared=False)
    def clerk() -> None: ...

    with pytest.raises(ConfigurationError, match="the app has a task named 'clerk' already"):
        tasks.attach(team_app, organism, backend=MemoryBackend(organism="desk"))
    fresh = Celery("fresh", broker="memory://", set_as_current=False)
    tasks.attach(fresh, organism, backend=MemoryBackend(organism="desk"))
    with pytest.raises(ConfigurationError, match="the app has the organism 'desk' already"):
        tasks.attach(fresh, organism, backend=MemoryBackend(organism="desk"))
    fresh.close()


def test_routes_of_the_app_are_kept(team_app: Celery, tmp_path: Path) -> None:
    """`task_routes` name a listener's queue, and everything that asks for it says the same."""
    team_app.conf.task_routes = {"clerk": {"queue": "office"}, "mender": "workshop"}
    organism = adjusted(ORGANISMS / "desk" / "organism.yaml", tmp_path, celery={})
    tasks.attach(team_app, organism, backend=MemoryBackend(organism="desk"))
    found = tasks.runtime_of(team_app).organism
    assert [found.queue_of(name) for name in ("clerk", "mender", "echo")] == [
        "office", "workshop", "desk",
    ]  # fmt: skip
    assert {"office", "workshop", "desk"} <= set(team_app.amqp.queues.consume_from)
    assert found.listeners["clerk"].local_s == 0, "what has a queue of its own goes through it"
