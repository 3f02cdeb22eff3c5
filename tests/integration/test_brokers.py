"""What a broker may do to conversations: lose their messages, lose their connections, be away.

The registry is on a server of its own and stays; everybody takes the way to the broker through
a proxy. What a Redis that is away does to busy workers stands in `tests/chaos`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from kombu import Queue

from tests.broker_plant import (
    PATIENCE_S,
    WORK,
    Plant,
    RedisBroker,
    plant,
    polishing,
    press_run,
    rabbit_broker,
)
from tests.broker_plant import redis_broker as own_redis
from tests.desk import close_app, plain_app
from tests.harness import ORGANISMS, WAIT_S, Deployment, NewBroker, eventually, on_broker
from tests.rabbit import Rabbit
from threadloom import tasks
from threadloom.config.celery_settings import is_rabbitmq
from threadloom.tasks.lost import LOST_AFTER_MS
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.recovery import sweep

pytest_plugins = ["tests.broker_fixtures"]

REDIS, RABBITMQ = "redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)
on_redis = pytest.mark.parametrize("works", [REDIS], indirect=True, scope="module")
on_rabbitmq = pytest.mark.parametrize("works", [RABBITMQ], indirect=True, scope="module")
#: seconds that a broker is away
AWAY_S = 5.0


@pytest.fixture(scope="module", params=[REDIS, RABBITMQ])
def works(
    request: pytest.FixtureRequest,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Plant]:
    """A plant on each kind of broker."""
    directory = tmp_path_factory.mktemp("plant")
    if request.param == "redis":
        made = own_redis(directory / "broker")
    else:
        made = rabbit_broker(request.getfixturevalue("rabbit"))
    with made as broker, plant(broker, deployment_url(), directory) as works:
        yield works


@contextmanager
def measured(works: Plant, what: str) -> Iterator[None]:
    """Say how long it took after what happened until work went on."""
    back = time.time()
    yield
    over_s = time.time() - back
    print(f"{what}: resumed after {works.resumed_s(back):.1f} s, over after {over_s:.1f} s")


def test_a_purged_queue_loses_nothing(works: Plant) -> None:
    """While busy, every message that waits is removed; the registry publishes them again."""
    begun = works.begin(*WORK)
    for _ in range(3):
        works.busy(1)
        assert eventually(works.purge, what="messages to purge")
    with measured(works, "purged three times"):
        works.came_right(begun)


@on_redis
def test_a_broker_that_is_restarted_without_its_messages_loses_nothing(works: Plant) -> None:
    """Redis keeps nothing on disk: the queues are gone, and what workers had not acknowledged."""
    assert isinstance(works.broker, RedisBroker)
    begun = works.begin(*WORK)
    works.busy()
    works.broker.restart()
    with measured(works, "restarted empty"):
        works.came_right(begun)


def test_connections_that_the_server_ends_cost_nothing(works: Plant) -> None:
    """From its side, twice, while work goes on and comes in: what was in hand is not run again."""
    begun = works.begin(*WORK)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            dropping = pool.submit(works.broker.drop_connections)
            while not dropping.done():
                begun += works.begin(press_run(20))
                begun[-1][1].get(timeout=PATIENCE_S)
            dropping.result()
    with measured(works, "connections ended"):
        works.came_right(begun)


@on_rabbitmq
@pytest.mark.parametrize("how", ["away", "silent"])
def test_a_broker_out_of_reach_while_busy_costs_time_and_nothing_else(
    works: Plant, how: str
) -> None:
    """For five seconds: workers wait and go on."""
    begun = works.begin(*WORK)
    works.busy()
    proxy = works.broker.proxy
    (proxy.go_away if how == "away" else proxy.fall_silent)()
    time.sleep(AWAY_S)  # the outage itself
    (proxy.come_back if how == "away" else proxy.speak_again)()
    with measured(works, f"{how} for {AWAY_S} s"):
        works.came_right(begun)


@pytest.mark.parametrize("how", ["away", "silent"])
def test_what_is_injected_meanwhile_starts_when_the_broker_is_back(works: Plant, how: str) -> None:
    """The call returns while no broker answers; what it began is in the registry, to run later."""
    works.came_right(works.begin(polishing(1)))  # this process has a connection
    proxy = works.broker.proxy
    (proxy.go_away if how == "away" else proxy.fall_silent)()
    try:
        begun = works.begin(polishing(2))
        [(_, result)] = begun
        assert works.deployment.conversation(result.id).status == "running"
    finally:
        (proxy.come_back if how == "away" else proxy.speak_again)()
    with measured(works, "injected meanwhile"):
        works.came_right(begun)


@pytest.mark.rabbitmq
def test_a_message_that_the_broker_refuses_stays_in_the_outbox(
    rabbit: Rabbit, deployment_url: Callable[[], str], tmp_path: Path
) -> None:
    """Somebody declared the queue otherwise: nothing is published until that is put right."""
    with rabbit.virtual_host() as url:
        organism = on_broker(ORGANISMS / "works" / "organism.yaml", url, tmp_path)
        app = tasks.create_app(organism, redis_url=deployment_url())
        runtime = tasks.runtime_of(app)
        with app.connection_for_write() as connection:
            strange = Queue("lobby", max_priority=3)(connection.default_channel)
            strange.declare()
            result = tasks.inject(app, "lobby", {"name": "bolt"})
            assert strange.queue_declare(passive=True).message_count == 0
            found = runtime.backend.conversation(result.id)
            assert found is not None
            assert found.status == "running"
            strange.delete()
        eventually(lambda: sweep(runtime, Publisher(app, runtime)), what="published by the sweep")
        with app.connection_for_write() as connection:
            lobby = app.amqp.queues["lobby"](connection.default_channel)
            assert lobby.queue_declare(passive=True).message_count == 1
        close_app(app)


@pytest.mark.both_brokers
def test_messages_are_served_by_priority(
    broker: NewBroker, deployment_url: Callable[[], str], tmp_path: Path
) -> None:
    """depth-first: also those of another app that declares the queue as the organism does.

    RabbitMQ serves high numbers first, Redis low ones. The rate limit keeps the runs apart.
    """
    organism = ORGANISMS / "strict" / "organism.yaml"
    strict = Deployment(
        organism, redis_url=deployment_url(), directory=tmp_path, broker_url=broker()
    )
    app = plain_app(strict)
    sent = {
        app.send_task("errand", [{}], queue="errands", priority=priority).id: priority
        for priority in (5, 0, 9)
    }
    try:
        strict.start_worker(concurrency=1)
        served = eventually(lambda: (runs := strict.records()) and len(runs) == len(sent) and runs)
    finally:
        strict.close()
        close_app(app)
    high_first = is_rabbitmq(strict.app.conf.broker_url)
    assert [sent[run["message"]] for run in served] == sorted(sent.values(), reverse=high_first)


@pytest.mark.both_brokers
def test_a_message_that_waits_for_its_rate_limit_is_not_taken_for_lost(
    broker: NewBroker, deployment_url: Callable[[], str], tmp_path: Path
) -> None:
    """The worker that holds it back says so: a copy would use the limit up for nothing."""
    folder = Path(shutil.copytree(ORGANISMS / "strict", tmp_path / "strict"))
    organism = folder / "organism.yaml"
    period_s = 2.0 + LOST_AFTER_MS / 1000
    organism.write_text(organism.read_text().replace("500/m", f"{60 / period_s:g}/m"))
    strict = Deployment(
        organism, redis_url=deployment_url(), directory=tmp_path, broker_url=broker()
    )
    try:
        worker = strict.start_worker(concurrency=4)
        begun = [strict.inject("errand", {}) for _ in range(3)]
        last = begun[-1].id
        eventually(lambda: unbegun_ms(strict, last) > LOST_AFTER_MS, what="longer than a lost one")
        for result in begun:
            result.get(timeout=WAIT_S)
        assert "republished" not in worker.output
        assert "skipped" not in worker.output
    finally:
        strict.close()


def unbegun_ms(deployment: Deployment, conversation_id: str) -> int:
    """How old the conversation is by the registry's clock while nobody has begun it; 0: begun."""
    waiting = deployment.backend.unbegun(older_than_ms=0, limit=100)
    if conversation_id not in {due.conversation_id for due in waiting}:
        return 0
    with redis.Redis.from_url(deployment.redis_url) as client:
        seconds, micros = client.time()
    now_ms = int(seconds * 1000 + micros // 1000)
    return now_ms - deployment.conversation(conversation_id).created_ms
