"""The parts of a fan-out: a join, its branches, and what follows a branch's answer.

A branch begins with a thread and a delivery of its own, whose caller is the initiator: branches
need not know of the join. The join's *body* is a delivery to the listener that opened it, held
until the join fires. Rights and limits are not checked here; `planner` has checked them.
"""

from __future__ import annotations

from typing import Any

from lxml import etree

from threadloom.routing.actions import FanOut, JoinSettled, MoreItems, Supply
from threadloom.routing.draft import Draft
from threadloom.routing.outgoing import Content
from threadloom.routing.payloads import canonical
from threadloom.routing.records import (
    Branch,
    BranchResult,
    Delivery,
    Join,
    Refill,
    Scope,
    Thread,
)


def open_join(draft: Draft, fan: FanOut) -> None:
    """Add a join, its body, the branches whose inputs are there, and what brings the others."""
    draft.calls = True
    join_id = draft.new_id()
    body = draft.hold_for_itself(JoinSettled(join_id)) if fan.collect else None
    ids = tuple(draft.new_id() for _ in range(fan.total if fan.chained else 0))
    join = Join(
        id=join_id,
        kind=draft.own_name,
        thread_id=draft.frame.thread.id,
        total=fan.total,
        need_ok=fan.need_ok,
        need_failed=fan.need_failed,
        body_id=body.id if body else None,
        delivery_ids=ids,
        targets=fan.targets,
        window=fan.window,
        released=min(fan.released, len(fan.inputs)),
        deadline_ms=fan.deadline_ms,
        item_timeout_ms=fan.item_timeout_ms,
        label=fan.label,
        memo=fan.memo,
    )
    draft.joins.append(join)
    for index, element in enumerate(fan.inputs):
        held = bool(join.released) and index >= join.released
        _open_branch(draft, join, index, element, held=held)
    _refill(draft, join, 0, len(fan.inputs), fan.more_from)


def supply_join(draft: Draft, supply: Supply) -> None:
    """Add the next branches of an open join, held until a lane takes them."""
    for index, element in enumerate(supply.inputs, supply.start):
        _open_branch(draft, supply.join, index, element, held=True)
    following = supply.start + len(supply.inputs)
    _refill(draft, supply.join, supply.start, following, supply.more_from)


def answer_branch(draft: Draft, branch: Branch, content: Content, *, success: bool) -> None:
    """Add the answer of the branch that this delivery's thread stands for, and what follows."""
    join = draft.frame.join
    result = BranchResult(branch, success, canonical(content.element), content.path)
    following = branch.index + 1
    if join is not None and join.is_chained and success and following < join.total:
        thread, delivery = _next_in_chain(draft, join, following, content)
        result = BranchResult(branch, True, result.payload, result.payload_path, delivery, thread)
    draft.results.append(result)


def _refill(draft: Draft, join: Join, start: int, following: int, more_from: str) -> None:
    """Have the next branches made once the lanes come to those from `start` on."""
    if following >= join.total or not more_from:
        return
    more = draft.hold_for_itself(MoreItems(join.id, more_from, following))
    draft.refills.append(Refill(join.id, start, more.id))


def _open_branch(draft: Draft, join: Join, index: int, element: Any, *, held: bool) -> None:
    opener = draft.frame.thread
    branch = Branch(join.id, index)
    name = join.target(index)
    thread = Thread(draft.new_id(), (*opener.chain, name), opener.id, branch)
    draft.threads.append(thread)
    content = Content(element, etree.QName(element).localname, "", False)
    draft.deliveries.append(
        draft.new_delivery(
            name, thread.id, opener.chain[-2], content,
            (*draft.frame.delivery.scope, branch),
            depth=thread.depth,
            delivery_id=join.delivery_ids[index] if join.is_chained else "",
            held=held,
            answer_within_ms=join.item_timeout_ms,
        )
    )  # fmt: skip


def _next_in_chain(
    draft: Draft, join: Join, index: int, content: Content
) -> tuple[Thread, Delivery]:
    step = draft.frame.thread  # (…, initiator, whoever opened the join, this branch)
    name = join.target(index)
    branch = Branch(join.id, index)
    thread = Thread(draft.new_id(), (*step.chain[:-1], name), step.parent_id, branch)
    scope = (*_scope_around(draft, join.id), branch)
    delivery = draft.new_delivery(
        name, thread.id, step.chain[-3], content, scope,
        depth=thread.depth, delivery_id=join.delivery_ids[index],
    )  # fmt: skip
    return thread, delivery


def _scope_around(draft: Draft, join_id: str) -> Scope:
    scope = draft.frame.delivery.scope
    joins = [branch.join_id for branch in scope]
    return scope[: joins.index(join_id)] if join_id in joins else scope
