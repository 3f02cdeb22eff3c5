"""The Celery settings of an organism: each broker's own, the user's over them, and those that
are fixed.
"""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import redis
from celery import Celery

from threadloom.config import ConfigurationError, OrganismConfig
from threadloom.config.celery_settings import (
    FIXED,
    celery_settings,
    celery_url,
    is_rabbitmq,
    registry_url,
    registry_url_of,
    setting_faults,
)
from threadloom.config.loader import load_mapping
from threadloom.routing import Listener, Organism, build_organism
from threadloom.routing.backends import MemoryBackend
from threadloom.tasks import assemble, runtime_of
from threadloom.tasks.queues import queues_of

REDIS_URL = "redis://registry:6380/1"
AMQP_URL = "amqp://mq//"


def organism(scheduling: str = "breadth-first", **celery: Any) -> OrganismConfig:
    section = {"name": "o", "thread_scheduling": scheduling, "celery": celery}
    return load_mapping({"organism": section, "listeners": []})


def settings(scheduling: str = "breadth-first", **celery: Any) -> dict[str, Any]:
    return celery_settings(organism(scheduling, **celery), redis_url=REDIS_URL)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://guest@mq//", True),
        ("amqps://mq", True),
        ("pyamqp://", True),
        (["amqp://one", "amqp://two"], True),
        ("amqp://one;amqp://two", True),
        ("redis://mq/0", False),
        ("rediss://mq", False),
        ("redis+socket:///run/redis.sock", False),
        ("sentinel://one;sentinel://two", False),
    ],
)
def test_the_broker_is_told_by_its_url(url: Any, expected: bool) -> None:
    """The broker's kind follows from Celery's URL scheme; of several URLs the first one decides."""
    assert is_rabbitmq(url) is expected


def test_results_are_kept_as_long_as_their_conversations() -> None:
    """A retention of a week would otherwise keep the registry's rows, and lose the result."""
    section = {"name": "o", "backend": {"redis_ttl": 604_800}}
    week = load_mapping({"organism": section, "listeners": []})
    assert celery_settings(week, redis_url=REDIS_URL)["result_expires"] == 604_800
    assert settings()["result_expires"] == 86_400
    assert settings(result_expires=60)["result_expires"] == 60


def test_registry_and_results_stay_on_redis() -> None:
    """The registry and the results stay on Redis, whatever the broker is."""
    on_redis, on_rabbitmq = settings(), settings(broker_url=AMQP_URL)
    assert on_redis["broker_url"] == on_redis["result_backend"] == REDIS_URL
    assert (on_rabbitmq["broker_url"], on_rabbitmq["result_backend"]) == (AMQP_URL, REDIS_URL)


def test_each_broker_gets_its_own_options_and_no_others() -> None:
    """RabbitMQ confirms; Redis has a visibility timeout; each gives a silent server up."""
    redis = settings()["broker_transport_options"]
    rabbitmq = settings(broker_url=AMQP_URL)["broker_transport_options"]
    assert not redis.keys() & rabbitmq.keys()
    assert rabbitmq["confirm_publish"] is True
    assert 0 < redis["socket_timeout"] <= 10
    assert 0 < rabbitmq["read_timeout"] <= 10


def test_our_workers_hand_out_again_only_what_was_ours() -> None:
    """Other apps may share the broker, and their tasks may run longer than our visibility
    timeout.
    """
    keys = {
        settings()["broker_transport_options"][name]
        for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key")
    }
    assert len(keys) == 3
    assert not keys & {"unacked", "unacked_index", "unacked_mutex"}


def test_the_users_transport_options_are_merged() -> None:
    """The user's options win one by one; the options that the user does not name keep our
    values.
    """
    given = {"read_timeout": 60, "client_properties": {"connection_name": "desk"}}
    found = settings(broker_url=AMQP_URL, broker_transport_options=given)
    assert found["broker_transport_options"] == {
        **settings(broker_url=AMQP_URL)["broker_transport_options"],
        **given,
    }


def test_other_settings_of_the_user_win() -> None:
    """Every other setting of the user replaces ours as a whole."""
    assert settings(broker_url=AMQP_URL, broker_heartbeat=30)["broker_heartbeat"] == 30
    assert settings(worker_prefetch_multiplier=4)["worker_prefetch_multiplier"] == 4


@pytest.mark.parametrize(
    ("scheduling", "url", "expected"),
    [
        ("depth-first", AMQP_URL, 9),
        ("breadth-first", AMQP_URL, None),
        ("depth-first", "redis://mq", None),
    ],
)
def test_queues_have_priorities_only_where_they_are_needed(
    scheduling: str, url: str, expected: int | None
) -> None:
    """Queues have priorities only on RabbitMQ with depth-first scheduling.

    Every other app that declares such a queue would have to declare it with the same arguments.
    """
    config = organism(scheduling, broker_url=url)
    built = build_organism(config)
    app = assemble(config, built, redis_url=REDIS_URL, backend=MemoryBackend(organism="o"))
    assert [queue.max_priority for queue in queues_of(built, app)] == [expected]
    app.close()


def test_delivery_stands_on_no_setting_of_the_app() -> None:
    """Late acknowledgement and a short visibility timeout would change everybody else's tasks."""
    found = settings()
    assert not {"task_acks_late", "task_reject_on_worker_lost", "task_serializer"} & found.keys()
    assert "visibility_timeout" not in found["broker_transport_options"]
    assert settings(task_acks_late=True)["task_acks_late"] is True, "theirs to say"


@pytest.mark.parametrize(
    ("section", "expected"), [({}, "o"), ({"queue": "desk"}, "desk"), ({"queue": "7"}, "7")]
)
def test_the_queue_is_named_like_the_organism(section: dict[str, str], expected: str) -> None:
    """The queue has the organism's name unless the organism section names another queue."""
    config = load_mapping({"organism": {"name": "o", **section}, "listeners": []})
    assert celery_settings(config, redis_url=REDIS_URL)["task_default_queue"] == expected
    assert build_organism(config).own_queue == expected


@pytest.mark.parametrize("url", [REDIS_URL, AMQP_URL])
def test_no_error_of_the_broker_ends_a_worker(url: str) -> None:
    """A worker survives a lost connection and a closed channel, however long the outage lasts."""
    found = settings(broker_url=url)
    assert found["broker_channel_error_retry"] is True
    assert found["broker_connection_max_retries"] is None


@pytest.mark.parametrize("name", FIXED)
def test_what_delivery_stands_on_cannot_be_changed(name: str) -> None:
    """The problem names the key; a setting that repeats the same value is accepted."""
    assert settings(**{name: FIXED[name]})[name] == FIXED[name]
    with pytest.raises(ConfigurationError, match=name):
        settings(**{name: "something else"})


def test_a_broker_is_needed() -> None:
    """An organism needs a broker and a place for results."""
    with pytest.raises(ConfigurationError, match="no Redis is named"):
        celery_settings(organism(), redis_url=None)
    with pytest.raises(ConfigurationError, match="result_backend"):
        celery_settings(organism(broker_url=AMQP_URL), redis_url=None)


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("result_backend", "rpc://", "Redis"),
        ("task_soft_time_limit", 5, "timeout_seconds"),
        ("task_time_limit", 5, "timeout_seconds"),
        ("task_inherit_parent_priority", True, "depth-first"),
        ("task_queues", {"slow": {}}, "queue"),
        ("task_default_queue_type", "quorum", "classic"),
    ],
)
def test_what_listeners_cannot_keep_is_refused(name: str, value: object, instead: str) -> None:
    """Never ignored: the problem names the setting and what to use in its place."""
    with pytest.raises(ConfigurationError, match=f"organism.celery.{name}.*{instead}"):
        settings(**{name: value})


def test_an_annotation_says_a_listeners_rate_and_nothing_else() -> None:
    """What the organism file says of a listener is said there alone."""
    said = {"l": {"soft_time_limit": 3}, "the.teams": {"soft_time_limit": 3}}
    [(place, remedy)] = setting_faults({"task_annotations": said}, ["l"])
    assert place == "task_annotations.l.soft_time_limit"
    assert "timeout_seconds" in remedy
    assert not setting_faults(
        {"task_annotations": {"l": {"rate_limit": "1/s", "time_limit": 9}}}, ["l"]
    )


@pytest.mark.parametrize(
    ("celery", "own", "expected"),
    [
        ({"task_annotations": {"l": {"rate_limit": "1/s"}}}, None, "1/s"),
        ({"task_annotations": [{"*": {"rate_limit": "2/s"}}]}, None, "2/s"),
        ({"task_annotations": {"*": {"rate_limit": "2/s"}}}, "5/m", "5/m"),
        ({"task_default_rate_limit": "3/m"}, None, "3/m"),
        ({"task_default_rate_limit": 4}, None, "4"),
        ({}, None, None),
    ],
)
def test_a_rate_limit_given_celerys_way_is_the_listeners(
    celery: dict[str, Any], own: str | None, expected: str | None
) -> None:
    """It then has a limit as any other has, and is never run without going through its queue."""
    built = Organism("o", {"l": Listener("l", print, {}, "", rate_limit=own)})
    app = assemble(
        organism(**celery), built, redis_url=REDIS_URL, backend=MemoryBackend(organism="o")
    )
    listener = runtime_of(app).organism.listeners["l"]
    assert (listener.rate_limit, listener.local_s == 0) == (expected, expected is not None)
    assert app.tasks["l"].rate_limit == expected
    app.close()


def test_annotations_for_every_task_leave_delivery_as_it_is() -> None:
    """A team's `*` is for its own tasks; late acknowledgement stays a listener's."""
    built = Organism("o", {"l": Listener("l", print, {}, "", timeout_s=7)})
    said = {
        "*": {"acks_late": False, "soft_time_limit": 1, "serializer": "pickle", "colour": "red"}
    }
    app = assemble(
        organism(task_annotations=said), built,
        redis_url=REDIS_URL, backend=MemoryBackend(organism="o"),
    )  # fmt: skip
    app.finalize()
    task: Any = app.tasks["l"]
    assert (task.acks_late, task.soft_time_limit, task.serializer) == (True, None, "json")
    assert task.colour == "red", "what is nobody's is the annotation's to say"
    app.close()


@pytest.mark.parametrize("said", ["", "?ssl_cert_reqs=CERT_REQUIRED", "?ssl_cert_reqs=required"])
def test_a_redis_by_tls_is_checked_however_that_is_spelled(said: str) -> None:
    """By Celery's result backend, by kombu, and by redis-py, each of which has its own spelling."""
    url = f"rediss://:word@registry:6380/1{said}"
    found = celery_settings(organism(), redis_url=url)
    config = Celery("o", set_as_current=False)
    config.conf.update(found)
    assert config.backend.connparams["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    broker = config.connection_for_write()
    assert broker.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    own = redis.ConnectionPool.from_url(registry_url(organism(), redis_url=url) or "")
    assert own.make_connection().cert_reqs == ssl.CERT_REQUIRED
    named = celery_settings(organism(broker_url=url, result_backend=url), redis_url=REDIS_URL)
    assert "ssl_cert_reqs" in named["broker_url"]


@pytest.mark.parametrize(
    "url",
    [
        "unix://me:se%40cret@/run/r.sock?db=3",
        "unix:///run/r.sock?db=3&username=me&password=se%40cret",
    ],
)
def test_a_unix_sockets_user_and_password_reach_celery(url: str) -> None:
    """In the broker's and the results' URL, and back again."""
    app = Celery("o", broker=celery_url(url), backend=celery_url(url), set_as_current=False)
    found = app.backend.connparams
    assert (found["username"], found["password"], found["path"]) == ("me", "se@cret", "/run/r.sock")
    assert registry_url_of(app.conf) == "unix://me:se%40cret@/run/r.sock?db=3"
