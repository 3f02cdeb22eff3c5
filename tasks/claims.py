"""Whose queue it is: a worker says on the broker which organism it serves a queue for.

Two organisms on one queue would take each other's messages. So each worker claims the queues it
consumes from, in its organism's name, before it consumes and again every few seconds; the claim
of another organism makes it refuse to start. A claim ends by itself some seconds after the last
worker of its organism is gone.

On Redis a claim is a key that expires. RabbitMQ has no keys: there it is an empty queue that is
deleted when unused, whose dead-letter routing key names the organism. Declaring it again with
another one is refused by RabbitMQ itself, atomically, with a text that says which one is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from amqp.exceptions import PreconditionFailed
from kombu import Connection

#: ms that a claim lasts after it was last renewed
CLAIM_MS = 15_000
_PREFIX = "threadloom.claim."
_CURRENT = re.compile(r"current is '(.*?)'")
#: KEYS[1] the claim; ARGV[1] whose it is to be, ARGV[2] for how many ms; answers whose it is
_CLAIM = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""


def claim_queues(connection: Connection, queues: Iterable[str], owner: str) -> dict[str, str]:
    """Claim queues for an organism, or renew the claims; returns those that another one holds.

    The result names for each such queue the organism that holds it. Safe to repeat. Raises what
    the connection raises for a broker that does not answer.
    """
    claim = _claim_on_redis if _is_redis(connection) else _claim_on_rabbitmq
    holders = {queue: claim(connection, queue, owner) for queue in queues}
    return {queue: holder for queue, holder in holders.items() if holder != owner}


def _is_redis(connection: Connection) -> bool:
    return str(connection.transport.driver_type) == "redis"


def _claim_on_redis(connection: Connection, queue: str, owner: str) -> str:
    channel: Any = connection.default_channel
    key = f"{channel.global_keyprefix}{_PREFIX}{queue}"
    with channel.conn_or_acquire() as client:
        holder = client.eval(_CLAIM, 1, key, owner, CLAIM_MS)
    return holder.decode() if isinstance(holder, bytes) else str(holder)


def _claim_on_rabbitmq(connection: Connection, queue: str, owner: str) -> str:
    arguments = {
        "x-expires": CLAIM_MS,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": owner,
    }
    channel: Any
    with connection.channel() as channel:
        try:
            channel.queue_declare(
                queue=_PREFIX + queue, durable=False, auto_delete=False, arguments=arguments
            )
        except PreconditionFailed as exc:
            found = _CURRENT.search(str(exc))
            return found[1] if found else "another organism"
    return owner
