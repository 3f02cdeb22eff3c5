"""The organism file as frozen models, one per section, with the meaning of each key.

A key is accepted only if the code acts on it. The models check single values (`config.fields`);
`config.loader` makes the checks that need the whole file, an import or the environment.

`repr` and `str` of every model mask secrets, and `sanitized` returns the same as JSON-able data.
Attributes hold the plain values, and so does pydantic's own `model_dump`: it is not for display.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
)

from threadloom.config import fields
from threadloom.config.dotted import Importer
from threadloom.config.secrets import described, shown
from threadloom.config.settings import Settings


def _settings(value: object) -> Settings:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping, not {described(value)}")
    return Settings(value)


Text = Annotated[str, PlainValidator(fields.text)]
FilledText = Annotated[Text, AfterValidator(fields.filled)]
Label = Annotated[Text, AfterValidator(fields.label)]
#: None only where the key is absent
LabelOrNone = Annotated[Label | None, BeforeValidator(fields.given)]
DottedPath = Annotated[Text, AfterValidator(fields.dotted)]
Flag = Annotated[bool, PlainValidator(fields.flag)]
Count = Annotated[int, Field(ge=1), BeforeValidator(fields.number)]
CountOrNone = Annotated[int, Field(ge=0), BeforeValidator(fields.number)]
PositiveSeconds = Annotated[float, Field(gt=0), BeforeValidator(fields.number)]
Seconds = Annotated[float, Field(ge=0), BeforeValidator(fields.number)]
DottedPaths = Annotated[tuple[DottedPath, ...], BeforeValidator(fields.one_or_many)]


class _Section(BaseModel):
    """Base of all sections: frozen, rejects unknown keys, compares by its keys, masks secrets."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    def sanitized(self) -> dict[str, Any]:
        """Return the section as JSON-able data with its secrets masked, for people to see.

        A value that came from `${NAME}` is shown as `${NAME}`; passwords in URLs and every value
        under a key like `password`, `secret` or `token` are `***`.
        """
        return {name: _shown(value, name) for name, value in self}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in self:
            yield name, value if _holds_sections(value) else shown(value, name)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and dict(self) == dict(other)


def _holds_sections(value: object) -> bool:
    if isinstance(value, tuple):
        return any(isinstance(item, _Section) for item in value)
    return isinstance(value, _Section)


def _shown(value: object, key: str) -> Any:
    if isinstance(value, _Section):
        return value.sanitized()
    if _holds_sections(value):
        return [item.sanitized() for item in value]  # type: ignore[attr-defined]
    return shown(value, key)


class BackendConfig(_Section):
    """The store of threads, deliveries and context."""

    #: `memory` serves one process and ends with it; `manager` serves the processes of one machine
    #: and ends with `threadloom up`
    type: Literal["redis", "manager", "memory"] = "redis"
    #: None: the Redis that the process was given (`THREADLOOM_REDIS_URL`, or the embedded one)
    redis_url: Annotated[
        Annotated[Text, AfterValidator(fields.redis_url)] | None, BeforeValidator(fields.given)
    ] = None
    #: every key begins with this prefix, followed by the organism's name
    redis_prefix: Annotated[Text, AfterValidator(fields.key_prefix)] = "tl:"
    #: retention: seconds that a conversation's rows are kept once it owes no answer any more, after
    #: its last activity
    redis_ttl: Count = 86_400


class OrganismSection(_Section):
    """The deployment as a whole."""

    name: Annotated[Text, AfterValidator(fields.organism_name)]
    #: the queue of every listener without a queue of its own; None: named like the organism
    queue: LabelOrNone = None
    #: most names in one call chain
    max_depth: Count = 50
    #: most deliveries in one conversation; the limit ends an endless loop of calls
    max_deliveries: Count = 10_000
    #: most bytes of one payload's XML
    max_payload_bytes: Count = 1_048_576
    #: most seconds that a conversation may owe an answer:
    #: what runs or waits then ends with an error
    max_age: Count = 30 * 86_400
    #: `depth-first` gives deeper deliveries a higher Celery priority
    thread_scheduling: Literal["breadth-first", "depth-first"] = "breadth-first"
    #: ms (the slice) for which a worker itself performs the deliveries that follow from a message,
    #: without queueing them, before it takes other messages; 0: every delivery is queued
    local_slice_ms: CountOrNone = 50
    backend: BackendConfig = BackendConfig()
    #: Celery's own settings, under Celery's names; `to_dict()` returns them for `app.conf`
    celery: Annotated[Settings, PlainValidator(_settings), PlainSerializer(Settings.to_dict)] = (
        Settings()
    )


class ListenerConfig(_Section):
    """One listener: a named handler and its contract. Dotted paths are not imported here."""

    name: Annotated[Text, AfterValidator(fields.listener_name)]
    #: dotted paths of the payload classes that it accepts; the file may give one or a list
    payload_class: Annotated[DottedPaths, Field(min_length=1)]
    #: dotted path of the handler function
    handler: DottedPath
    #: what the listener does, for agents that may call it
    description: FilledText
    #: whether the handler is told the listener's name and how to call its peers
    agent: Flag = False
    #: names of the listeners that it may call; None: every listener; empty: none
    peers: Annotated[tuple[Text, ...] | None, BeforeValidator(fields.peers)] = None
    #: most seconds of one attempt (one execution of the handler)
    timeout_seconds: PositiveSeconds = 30.0
    #: dotted paths of the payload classes that it replies with; empty: not declared
    replies: DottedPaths = ()
    #: None: the organism's queue
    queue: LabelOrNone = None
    #: in Celery's form, such as `10/s`; None: no limit
    rate_limit: Annotated[
        Annotated[str, PlainValidator(fields.rate_limit)] | None, BeforeValidator(fields.given)
    ] = None
    #: whether the worker that decided a delivery for this listener may perform it at once; false:
    #: the delivery is queued. A listener with its own queue or rate limit is always queued
    local: Flag = True
    #: attempts after the first one failed with a transient error
    max_retries: CountOrNone = 3
    #: seconds before the first retry; the backoff doubles with each retry
    retry_backoff: Seconds = 1.0
    #: an agent's instructions
    prompt: Text = ""
    #: accept damaged XML, as language models write it, and say so in the reply
    repair: Flag = False

    _position: int = PrivateAttr(default=0)

    @property
    def position(self) -> int:
        """The listener's index in the file, for `listeners[2]` in a problem."""
        return self._position


class OrganismConfig(_Section):
    """The content of a whole organism file."""

    organism: OrganismSection
    listeners: tuple[ListenerConfig, ...]

    _source: str = PrivateAttr(default="organism")
    _importer: Importer = PrivateAttr(default_factory=Importer)

    @property
    def source(self) -> str:
        """The path of the file that was read, or the name that a mapping was given."""
        return self._source

    @property
    def importer(self) -> Importer:
        """The importer of its dotted paths, over the modules that were loaded for this reading."""
        return self._importer
