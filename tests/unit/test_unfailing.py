"""Steps of threads and timers: what fails is told, and keeps nothing else from its turn."""

from __future__ import annotations

import logging

import pytest

from threadloom.config import RegistryUnavailableError
from threadloom.tasks import unfailing as module
from threadloom.tasks.overtime import OvertimeBoard
from threadloom.tasks.unfailing import SetAside, attempted, unfailing


def broken() -> None:
    raise KeyError("what nobody expected")


def away() -> None:
    raise RegistryUnavailableError("away")


def test_a_timer_goes_on_whatever_a_step_raises(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the step and has the error; a registry that is away is a line."""
    with caplog.at_level(logging.WARNING):
        unfailing(broken)()
        unfailing(away)()
    assert "step.failed step=broken" in caplog.text
    assert "what nobody expected" in caplog.text
    assert "registry.unavailable step=away reason=away" in caplog.text


def test_a_registry_that_is_away_is_away_for_the_next_step_too() -> None:
    """So the caller learns of it, as of no other error."""
    assert attempted(broken) is False
    assert attempted(int) is True
    with pytest.raises(RegistryUnavailableError):
        attempted(away)


def test_an_item_that_fails_is_left_alone_for_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its neighbours have their turn at once; it has its own again later, and is forgotten then."""
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[-1])
    calls: list[str] = []

    def fail(name: str) -> None:
        calls.append(name)
        raise ValueError(name)

    items = SetAside()
    for now_s in (100.0, 102.0, 103.5, 108.0, 110.0):
        clock.append(now_s)
        items.attempt("bad", fail, "bad")
        items.attempt("good", calls.append, "good")
    assert [calls.count(name) for name in ("bad", "good")] == [3, 5]
    assert len(items) == 1
    clock.append(200.0)
    items.attempt("bad", calls.append, "mended")
    assert len(items) == 0
    items.attempt("bad", fail, "bad")
    items.forget_absent({"another"})
    assert len(items) == 0


def test_a_process_that_waits_for_the_registry_is_not_late() -> None:
    """Its deadline has passed, and counts again once it is not spared any more."""
    board = OvertimeBoard()
    board.expect(1e-9)
    [pid] = board.late()
    board.spare(60)
    assert board.late() == set()
    assert 0 < board.spared_s(pid) <= 60
    assert board.spared_s(None) < 0
    board.spare(-1)
    assert board.late() == {pid}
    assert board.spared_s(pid) < 0
