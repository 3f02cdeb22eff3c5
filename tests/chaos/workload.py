"""What the chaos organism is asked, and what it must answer."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tests.works import xml
from threadloom.primitives import BufferStart, SequenceStart
from threadloom.routing import XML, payload_type

#: what the listeners that take a number make of it
VALUES = {
    "increment": lambda n: n + 1,
    "double": lambda n: 2 * n,
    "asker": lambda n: 2 * n + 1,
    "liner": lambda n: 2 * (2 * (n + 1) + 1),
    "summer": lambda n: sum(2 * each + 1 for each in range(n % 5 + 1)),
}


#: a listener that older workers do not know: they would refuse it as a step or target
NOVICE = "novice"


@dataclass(frozen=True)
class Plan:
    """One conversation: to whom, what, and the payload it must give."""

    to: str
    message: Any
    expected: Mapping[str, Any]

    @property
    def json(self) -> Any:
        """The message as any Celery app sends it: a mapping as it is, a payload as XML text."""
        if isinstance(self.message, Mapping):
            return self.message
        return XML(payload_type(type(self.message)).to_element(self.message)).text


def ask(listener: str, value: int) -> Plan:
    """One listener, one number."""
    message = {"type": "Number", "payload": {"value": value}}
    return Plan(listener, message, {"value": VALUES[listener](value)})


def novice(value: int) -> Plan:
    """The listener that only the newest workers know."""
    return Plan(NOVICE, {"type": "Number", "payload": {"value": value}}, {"value": 3 * value})


def count(start: int) -> Plan:
    """A listener that calls itself."""
    return Plan("countdown", {"left": start}, {"value": start * (start + 1) // 2})


def sequence(steps: list[str], value: int, *, name: str = "line") -> Plan:
    """A chain of steps."""
    result = value
    for step in steps:
        result = VALUES[step](result)
    start = SequenceStart(steps, number(value), sequence_id=name)
    return Plan("system.sequence", start, _sequence_result(result, len(steps), name))


def buffer(target: str, values: list[int], *, max_parallel: int = 0) -> Plan:
    """A chord over some numbers."""
    start = BufferStart(
        target, [number(value) for value in values], max_parallel=max_parallel, buffer_id="batch"
    )
    answers = [number(VALUES[target](value)).text for value in values]
    return Plan("system.buffer", start, _buffer_result(answers))


def buffer_of_sequences(steps: list[str], values: list[int]) -> Plan:
    """A chord whose parts are chains."""
    plans = [sequence(steps, value, name=f"line{n}") for n, value in enumerate(values)]
    start = BufferStart(
        "system.sequence",
        [XML(payload_type(SequenceStart).to_element(plan.message)) for plan in plans],
        buffer_id="batch",
    )
    answers = [
        f"<SequenceComplete><sequence_id>{plan.expected['sequence_id']}</sequence_id><final_result>"
        f"{plan.expected['final_result']}</final_result>"
        f"<step_count>{len(steps)}</step_count></SequenceComplete>"
        for plan in plans
    ]
    return Plan("system.buffer", start, _buffer_result(answers))


def number(value: int) -> XML:
    """A number as a sequence or buffer passes it on."""
    return xml("Number", value=value)


def _sequence_result(value: int, steps: int, name: str) -> dict[str, Any]:
    return {"sequence_id": name, "final_result": number(value).text, "step_count": steps}


def _buffer_result(answers: list[str]) -> dict[str, Any]:
    items = "".join(
        f'<item index="{index}" success="true">{answer}</item>'
        for index, answer in enumerate(answers)
    )
    return {
        "buffer_id": "batch",
        "total": len(answers),
        "successful": len(answers),
        "results": f"<results>{items}</results>",
    }


#: one of each kind
PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "call": ask("asker", 3),
        "self-call": count(4),
        "sequence": sequence(["increment", "asker", "double"], 3),
        "buffer": buffer("asker", [3, 1, 4, 1, 5], max_parallel=2),
        "sequence of calls that fan out": sequence(["liner", "summer", "asker"], 2),
        "buffer of fan-outs": buffer("summer", [1, 2, 3]),
        "buffer of sequences": buffer_of_sequences(["increment", "liner"], [1, 2, 3]),
    }
)


def chosen(dice: random.Random) -> Plan:
    """A plan by chance, often a nested one."""
    few = [dice.randrange(50) for _ in range(dice.randint(1, 6))]
    listeners = sorted(VALUES)
    steps = [dice.choice(listeners) for _ in range(dice.randint(1, 4))]
    return dice.choice(
        [
            lambda: ask(dice.choice(listeners), few[0]),
            lambda: count(dice.randint(1, 8)),
            lambda: novice(few[0]),
            lambda: sequence(steps, few[0]),
            lambda: buffer(dice.choice(listeners), few, max_parallel=dice.choice([0, 2])),
            lambda: buffer_of_sequences(steps[:2], few[:3]),
        ]
    )()
