"""The organism as it runs: listeners resolved to handlers and payload types, frozen.

`build_organism` turns the configuration (names and dotted paths) into objects and adds what
it finds wrong to the loader's list, so that `threadloom check` and start-up report the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from threadloom.config import (
    ConfigurationError,
    Importer,
    ListenerConfig,
    ModuleSpace,
    OrganismConfig,
    Problem,
)
from threadloom.routing.errors import PayloadDefinitionError
from threadloom.routing.payloads import PayloadType, payload_type


@dataclass(frozen=True, slots=True)
class Listener:
    """One named handler with its contract; its Celery task has the same name."""

    name: str
    handler: Callable[..., Any]
    #: what it takes, by root element name
    accepts: Mapping[str, PayloadType]
    description: str
    #: what it says it answers with, by root element name; empty: not declared
    replies: Mapping[str, PayloadType] = field(default_factory=dict)
    agent: bool = False
    #: whom it may call; None: anybody; empty: nobody (itself always)
    peers: tuple[str, ...] | None = None
    #: how long one run of the handler may take
    timeout_s: float = 30.0
    queue: str | None = None
    rate_limit: str | None = None
    #: whether a worker that has a message for it in hand may run it without queueing it first
    local: bool = True
    #: further runs after a failure that a retry may mend
    max_retries: int = 3
    #: base of the exponential backoff between runs
    retry_backoff_s: float = 1.0
    #: accept damaged XML and say so in a `<huh>`
    repair: bool = False
    prompt: str = ""
    #: for agents: how to call its peers, as text
    usage: str = ""
    #: a `system.*` listener: ours, never removed
    system: bool = False

    @property
    def local_s(self) -> float:
        """Seconds it may take in a worker that runs it without queueing it; 0: none may.

        What has a queue of its own is served by whoever serves that queue, and a rate limit is
        kept by whoever takes messages from it.
        """
        through_queue = self.queue is not None or self.rate_limit is not None or not self.local
        return 0.0 if through_queue else self.timeout_s


@dataclass(frozen=True, slots=True)
class Organism:
    """One deployed configuration: its listeners and limits."""

    name: str
    listeners: Mapping[str, Listener]
    max_depth: int = 50
    max_deliveries: int = 10_000
    max_payload_bytes: int = 1_048_576
    max_conversation_bytes: int = 64 * 1_048_576
    depth_first: bool = False
    #: ms for which a run goes on with what follows from it, without queueing it; 0: never
    local_slice_ms: int = 50
    #: the queue of every listener that has none of its own; empty: named like the organism
    queue: str = ""
    #: what names of modules mean to its handlers
    space: ModuleSpace = field(default_factory=ModuleSpace, repr=False, compare=False)

    @property
    def own_queue(self) -> str:
        """The queue of every listener that has none of its own."""
        return self.queue or self.name

    def queue_of(self, listener: str) -> str:
        """The queue that a listener's messages go to; the organism's for one that is not there."""
        found = self.listeners.get(listener)
        return (found and found.queue) or self.own_queue

    @property
    def queues(self) -> tuple[str, ...]:
        """Every queue that a listener's messages go to, the organism's own first."""
        named = sorted({self.queue_of(name) for name in self.listeners})
        return tuple(dict.fromkeys([self.own_queue, *named]))

    def payload_type_at(self, path: str) -> PayloadType | None:
        """The payload class at a public dotted path, or None when this process cannot have it.

        Replies may be of a class that no listener declares, so any payload class of a module
        that is loaded will do, as the path means it in the organism's own modules. Nothing is
        imported on the word of a stored message.
        """
        names = path.split(".")
        for count in range(len(names) - 1, 0, -1):
            module = self.space.loaded(".".join(names[:count]))
            if module is not None:
                return _payload_type_in(module, names[count:])
        return None


def _payload_type_in(holder: object, names: Sequence[str]) -> PayloadType | None:
    found = holder
    for name in names:
        # Not getattr: a module's own `__getattr__` may import what it is asked for.
        found = getattr(found, "__dict__", {}).get(name)
    if not isinstance(found, type):
        return None
    try:
        return payload_type(found)
    except PayloadDefinitionError:
        return None


def build_organism(
    config: OrganismConfig,
    *,
    system_listeners: Iterable[Listener] = (),
    problems: Sequence[Problem] = (),
    source: str = "organism",
) -> Organism:
    """Return the runnable organism, or raise one ConfigurationError with every problem.

    `problems` are what the loader found before; they lead the report.
    """
    found = list(problems)
    listeners = {entry.name: entry for entry in system_listeners}
    for entry in config.listeners:
        built = _listener(entry, config.importer, found)
        if built is not None and built.name not in listeners:
            listeners[built.name] = built
    if found:
        config.importer.discard()
        raise ConfigurationError(source, found)
    section = config.organism
    return Organism(
        name=section.name,
        queue=section.queue or "",
        listeners=MappingProxyType(
            {name: _with_usage(entry, listeners) for name, entry in listeners.items()}
        ),
        max_depth=section.max_depth,
        max_deliveries=section.max_deliveries,
        max_payload_bytes=section.max_payload_bytes,
        max_conversation_bytes=section.max_conversation_bytes,
        depth_first=section.thread_scheduling == "depth-first",
        local_slice_ms=section.local_slice_ms,
        space=config.importer.space,
    )


def _listener(
    entry: ListenerConfig, importer: Importer, problems: list[Problem]
) -> Listener | None:
    before = len(problems)
    where = f"listeners[{entry.position}]"
    accepts = _types(entry.payload_class, f"{where}.payload_class", importer, problems)
    replies = _types(entry.replies, f"{where}.replies", importer, problems)
    try:
        handler = importer.get(entry.handler)
    except ConfigurationError:
        return None  # the loader has reported it
    if len(problems) > before:
        return None
    return Listener(
        name=entry.name,
        handler=handler,  # type: ignore[arg-type]  # the loader checked that it is callable
        accepts=accepts,
        description=entry.description,
        replies=replies,
        agent=entry.agent,
        peers=entry.peers,
        timeout_s=entry.timeout_seconds,
        queue=entry.queue,
        rate_limit=entry.rate_limit,
        local=entry.local,
        max_retries=entry.max_retries,
        retry_backoff_s=entry.retry_backoff,
        repair=entry.repair,
        prompt=entry.prompt,
    )


def _types(
    paths: Sequence[str], where: str, importer: Importer, problems: list[Problem]
) -> Mapping[str, PayloadType]:
    types: dict[str, PayloadType] = {}
    for position, path in enumerate(paths):
        at = f"{where}[{position}]" if len(paths) > 1 else where
        try:
            found = importer.get(path)
        except ConfigurationError:
            continue  # the loader has reported it
        if not isinstance(found, type):
            continue  # likewise
        try:
            kind = payload_type(found)
        except PayloadDefinitionError as exc:
            problems.append(Problem(at, str(exc)))
            continue
        if kind.name in types and types[kind.name].cls is not kind.cls:
            problems.append(Problem(at, f"two classes share the root element <{kind.name}>"))
        types[kind.name] = kind
    return MappingProxyType(types)


def _with_usage(entry: Listener, listeners: Mapping[str, Listener]) -> Listener:
    if not entry.agent:
        return entry
    names = (
        entry.peers
        if entry.peers is not None
        else [name for name, other in listeners.items() if name != entry.name and not other.system]
    )
    parts = [_usage_of(listeners[name]) for name in names if name in listeners]
    return replace(entry, usage="\n\n".join(parts))


def _usage_of(entry: Listener) -> str:
    kinds = "\n".join(kind.usage for kind in entry.accepts.values())
    return f"{entry.name}: {entry.description}\n{kinds}"
