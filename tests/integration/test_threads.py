"""The thread registry over every backend: opaque ids outside, exact call chains inside."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.stories import Bench, Story
from threadloom.routing.backends import SharedBackend
from threadloom.routing.errors import UnknownThreadError
from threadloom.routing.records import Branch, Skip, Thread
from threadloom.routing.threads import ThreadRegistry

ODD_NAMES = ("con.sole", "a|b", 'quote"\\', "{0}:t", "ünï ☃", "", "a.b.c", "1")


@pytest.fixture
def registry(backend: SharedBackend) -> ThreadRegistry:
    return ThreadRegistry(backend, "conversation")


def at_once(times: int, work: Any) -> list[Any]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(work, range(times)))


def test_a_call_goes_down_the_chain_and_its_reply_comes_up(registry: ThreadRegistry) -> None:
    """console calls greeter calls shouter; the replies find their way back to the console."""
    root = registry.initialize_root("console")
    greeter = registry.extend_chain(root, "greeter")
    shouter = registry.extend_chain(greeter, "shouter")
    assert registry.lookup(shouter) == ("console", "greeter", "shouter")
    assert registry.prune_for_response(shouter) == ("greeter", greeter)
    assert registry.prune_for_response(greeter) == ("console", root)
    assert registry.prune_for_response(root) == (None, None)


def test_the_same_path_is_the_same_thread(registry: ThreadRegistry) -> None:
    """Every way of asking for a path gives the same thread; another path gives another thread."""
    root = registry.initialize_root("console")
    assert registry.initialize_root("console") == root
    called = registry.start_chain("console", "a")
    assert registry.extend_chain(root, "a") == called
    assert registry.get_or_create(("console", "a")) == called
    deep = registry.get_or_create(("console", "a", "b", "a"))
    assert registry.prune_for_response(registry.prune_for_response(deep)[1] or "") == ("a", called)
    assert registry.initialize_root("cron") != root
    assert len(registry.debug_dump()) == 5


def test_two_conversations_share_no_thread(backend: SharedBackend) -> None:
    """The conversations share no thread even on the same path."""
    one, two = (ThreadRegistry(backend, name) for name in ("one", "two"))
    chain = ("console", "a")
    mine, other = one.get_or_create(chain), two.get_or_create(chain)
    assert mine != other
    with pytest.raises(UnknownThreadError):
        two.lookup(mine)


def test_ids_are_random_and_say_nothing(registry: ThreadRegistry) -> None:
    """The ids are UUIDs of version 4, which contain no name, time or machine."""
    registry.get_or_create(("console", "a", "b"))
    ids = list(registry.debug_dump())
    assert [uuid.UUID(each).version for each in ids] == [4, 4, 4]


def test_names_may_hold_any_characters(registry: ThreadRegistry) -> None:
    """A chain is a tuple: `a.b` is one listener, not b called by a."""
    thread = registry.get_or_create(ODD_NAMES)
    assert registry.lookup(thread) == ODD_NAMES
    assert registry.get_or_create(ODD_NAMES) == thread
    assert registry.start_chain("x", "a.b") != registry.get_or_create(("x", "a", "b"))
    assert registry.start_chain("x.a", "b") != registry.get_or_create(("x", "a", "b"))


def test_fifty_who_extend_at_once_get_one_child(backend: SharedBackend) -> None:
    """Each has a registry of its own, as in fifty processes.

    All get one shared child, and no other child is lost.
    """
    thread = ThreadRegistry(backend, "conversation").start_chain("console", "a")

    def extend(n: int) -> tuple[str, str]:
        own = ThreadRegistry(backend, "conversation")
        return own.extend_chain(thread, "shared"), own.extend_chain(thread, f"own{n}")

    found = at_once(50, extend)
    assert len({shared for shared, _ in found}) == 1
    assert len({own for _, own in found}) == 50
    assert len(backend.threads("conversation")) == 53


def test_fifty_who_start_at_once_share_the_root(backend: SharedBackend) -> None:
    found = at_once(50, lambda _: ThreadRegistry(backend, "c").start_chain("console", "a"))
    assert len(set(found)) == 1
    assert len(backend.threads("c")) == 2


def test_fifty_who_prune_at_once_lose_no_reply(registry: ThreadRegistry) -> None:
    """Fifty replies on one thread each find the caller, and the thread stays for more calls."""
    thread = registry.start_chain("console", "a")
    child = registry.extend_chain(thread, "b")
    assert set(at_once(50, lambda _: registry.prune_for_response(child))) == {("a", thread)}
    assert registry.extend_chain(thread, "b") == child


def test_an_opened_conversation_has_its_threads_here(story: Story) -> None:
    """The registry finds the threads that the injection made instead of making others."""
    story.start()
    registry = ThreadRegistry(story.backend, story.id)
    assert registry.initialize_root("console") == "t0"
    assert registry.start_chain("console", "clerk") == "t1"
    assert registry.prune_for_response("t1") == ("console", "t0")


def test_a_call_finds_the_child_that_a_commit_made(story: Story) -> None:
    """A commit also finds the child made here, because both use one store of threads."""
    frame = story.start()
    calls = story.call(frame, "helper")
    story.commit(frame, **calls)
    registry = ThreadRegistry(story.backend, story.id)
    assert registry.extend_chain("t1", "helper") == calls["threads"][0].id


# --- registering ----------------------------------------------------------------------------


def test_a_known_id_is_registered_for_its_chain(registry: ThreadRegistry) -> None:
    """The id becomes the chain's thread, below the caller's thread; registering it again
    changes nothing.
    """
    registry.register_thread("given", ("console", "a"))
    registry.register_thread("given", ("console", "a"))
    assert registry.lookup("given") == ("console", "a")
    assert registry.start_chain("console", "a") == "given"
    assert registry.prune_for_response("given") == ("console", registry.initialize_root("console"))
    registry.register_thread("top", ("cron",))
    assert registry.initialize_root("cron") == "top"


def test_a_second_id_for_a_chain_is_a_parallel_thread(registry: ThreadRegistry) -> None:
    """Both ids can be looked up, and the first one stays the chain's own."""
    first = registry.start_chain("console", "a")
    registry.register_thread("parallel", ("console", "a"))
    assert registry.lookup("parallel") == ("console", "a")
    assert registry.start_chain("console", "a") == first
    assert registry.prune_for_response("parallel") == registry.prune_for_response(first)


@pytest.mark.parametrize(
    ("thread_id", "chain"), [("given", ("console", "b")), ("given", ()), ("", ("console",))]
)
def test_what_cannot_be_registered(
    registry: ThreadRegistry, thread_id: str, chain: tuple[str, ...]
) -> None:
    """An id stands for one chain for ever; an empty id and an empty chain are refused."""
    registry.register_thread("given", ("console", "a"))
    with pytest.raises(ValueError, match="thread"):
        registry.register_thread(thread_id, chain)
    assert registry.lookup("given") == ("console", "a")


@pytest.mark.parametrize("unknown", ["unheard-of", ""])
def test_an_unknown_thread_is_an_error(registry: ThreadRegistry, unknown: str) -> None:
    registry.start_chain("console", "a")
    for ask in (
        lambda: registry.lookup(unknown),
        lambda: registry.prune_for_response(unknown),
        lambda: registry.extend_chain(unknown, "a"),
    ):
        with pytest.raises(UnknownThreadError):
            ask()
    with pytest.raises(ValueError, match="at least one name"):
        registry.get_or_create(())


# --- going ----------------------------------------------------------------------------------


def test_cleanup_takes_a_thread_and_everything_below(registry: ThreadRegistry) -> None:
    """Siblings and callers stay, and the same path can be made again under new ids."""
    a = registry.start_chain("console", "a")
    below = [registry.get_or_create(("console", "a", "b", *rest)) for rest in ((), ("c",), ("d",))]
    kept = registry.get_or_create(("console", "a", "x"))
    assert registry.cleanup(below[0]) == 3
    for thread in below:
        with pytest.raises(UnknownThreadError):
            registry.lookup(thread)
    assert registry.lookup(kept) == ("console", "a", "x")
    assert registry.extend_chain(a, "b") not in below
    assert registry.cleanup(below[0]) == 0


def test_cleanup_takes_parallel_threads_too(backend: SharedBackend) -> None:
    """There are more parallel threads than one call of the backend forgets at once."""
    registry = ThreadRegistry(backend, "c")
    top = registry.start_chain("console", "a")
    for n in range(600):
        branch = Thread(f"item{n}", ("console", "a", "item"), top, Branch("j", n))
        backend.put_thread("c", branch)
    assert registry.cleanup(top) == 601
    assert len(backend.threads("c")) == 1


def test_a_reply_on_a_thread_that_was_cleaned_up_is_not_delivered(story: Story) -> None:
    """The reply is logged, and the conversation ends because nothing else is in flight."""
    frame = story.start()
    story.commit(frame, **story.call(frame))
    assert ThreadRegistry(story.backend, story.id).cleanup("t1") == 2
    assert story.try_begin("d1") == Skip("cancelled")
    assert story.events("late") == ["d1"]


def test_clear_forgets_one_conversation(backend: SharedBackend) -> None:
    """Other conversations stay."""
    one, two = (ThreadRegistry(backend, name) for name in ("one", "two"))
    for registry in (one, two):
        registry.get_or_create(("console", "a", "b"))
    one.clear()
    assert one.debug_dump() == {}
    assert len(two.debug_dump()) == 3


def test_a_dump_shows_every_thread(backend: SharedBackend) -> None:
    """The dump is plain data for people and JSON."""
    count = iter(range(9))
    registry = ThreadRegistry(backend, "c", new_id=lambda: f"t{next(count)}")
    registry.start_chain("console", "a")
    backend.put_thread("c", Thread("item", ("console", "a", "item"), "t1", Branch("j", 3)))
    assert registry.debug_dump() == {
        "t0": {"chain": ["console"], "parent": None, "branch": None},
        "t1": {"chain": ["console", "a"], "parent": "t0", "branch": None},
        "item": {"chain": ["console", "a", "item"], "parent": "t1", "branch": ["j", 3]},
    }


def test_threads_expire_with_their_conversation(bench: Bench) -> None:
    """Threads of a conversation that was never opened expire as well; each change renews their
    retention.
    """
    backend = bench.another(ttl_s=1)
    registry = ThreadRegistry(backend, "c")
    registry.start_chain("console", "a")
    bench.until(lambda: backend.expire(limit=5).gone)
    assert registry.debug_dump() == {}
