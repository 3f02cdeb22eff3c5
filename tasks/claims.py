"""Claims: a mark on the broker that says which organism's workers serve a queue.

Two organisms on one queue would consume each other's messages. So each worker claims the queues
that it consumes from for its organism, before it consumes and again every few seconds. It refuses
to start if another organism has claimed one of them. A claim expires 15 s after its last renewal.

On Redis a claim is a key that expires. On RabbitMQ, which has no keys, a claim is an empty queue
that is deleted when unused and whose dead-letter routing key names the organism. RabbitMQ
atomically refuses to declare it again with another routing key, and its error names the one that
is there.
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
#: KEYS[1] the claim; ARGV[1] the claiming organism, ARGV[2] the claim's ms; returns its holder
_CLAIM = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""


def claim_queues(connection: Connection, queues: Iterable[str], owner: str) -> dict[str, str]:
    """Claim queues for an organism or renew its claims; return those that another one holds.

    The result maps each such queue to the organism that holds it. Safe to repeat. If the broker
    does not answer, or does not permit it, the connection's and the channel's errors are raised.
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
                queue=_PREFIX + queue, durable=True, auto_delete=False, arguments=arguments
            )
        except PreconditionFailed as exc:
            found = _CURRENT.search(str(exc))
            return found[1] if found else "another organism"
    return owner
