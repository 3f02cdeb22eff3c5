"""The manager backend between real processes: shared, authenticated, and back after a loss.

What it promises as a registry is tested with the other backends, in `test_backend_*.py`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness import ROOT, WAIT_S, eventually
from tests.managers import RunningManager, running_manager, start_manager
from tests.stories import DONE, Story
from threadloom.config import (
    ConfigurationError,
    OrganismConfig,
    RegistryUnavailableError,
    load_mapping,
)
from threadloom.routing.backends import ManagerBackend, SharedBackend, connect
from threadloom.routing.backends.manager.backend import Door, _connection
from threadloom.routing.backends.manager.server import METHODS, TAKEN

#: another process's part in a conversation: run the delivery `d1` and reply
_ELSEWHERE = """
import sys
from pathlib import Path
from threadloom.routing.backends import ManagerBackend
from tests.stories import DONE, Story
story = Story(ManagerBackend(Path(sys.argv[1]), organism="desk"), id=sys.argv[2], owner="elsewhere")
called = story.begin("d1")
story.commit(called, deliveries=(story.delivery(called, id="reply", thread_id="t1", to="clerk"),))
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[RunningManager]:
    """A manager of this test's own, which it may kill."""
    with running_manager(tmp_path / "door") as running:
        yield running


@pytest.fixture
def backend(manager: RunningManager) -> ManagerBackend:
    return ManagerBackend(manager.door, organism="desk", timeout_s=1.5)


def in_a_fork(work: Callable[[], object]) -> None:
    """Run `work` in a child that was forked as billiard forks, unknown to multiprocessing."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


# --- shared ---------------------------------------------------------------------------------


def test_what_one_process_writes_another_reads(
    manager: RunningManager, backend: ManagerBackend
) -> None:
    """A call begins in this process, is answered in another one, and ends here."""
    story = Story(backend)
    frame = story.start()
    story.commit(frame, **story.call(frame))
    subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(manager.door), story.id],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=WAIT_S,
    )
    story.run("reply", ending=DONE)
    assert story.events("message") == [story.id, "d1", "reply"]
    assert story.row.value == DONE.value


def test_forked_children_and_threads_have_connections_of_their_own(
    backend: ManagerBackend,
) -> None:
    """A pool forks while the parent is connected; all talk at once, and nobody hears another's."""

    def talk(name: str) -> None:
        for n in range(50):
            story = Story(backend, id=f"{name}-{n}")
            story.start()
            assert story.row.id == story.id

    backend.stats()
    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(talk, f"thread {n}") for n in range(4)]
        working += [pool.submit(in_a_fork, lambda n=n: talk(f"fork {n}")) for n in range(4)]  # type: ignore[misc]
        for work in working:
            work.result()
    talk("parent")
    assert backend.stats()["conversations"] == 9 * 50


def test_organisms_of_one_manager_do_not_meet(
    manager: RunningManager, backend: ManagerBackend
) -> None:
    """The same id in two organisms is two conversations; any process finds its own."""
    other = ManagerBackend(manager.door, organism="other")
    Story(backend).start()
    assert other.conversation("conversation") is None
    assert Story(other).start().attempt == 1
    assert ManagerBackend(manager.door, organism="desk").conversation("conversation") is not None


def test_every_operation_can_be_called_from_elsewhere() -> None:
    """Whatever the protocol has is exposed, and asked of the manager."""
    own = {"close", "check_format"}  # the one asks nothing, the other says its own format
    promised = {name for name in dir(SharedBackend) if name[0] != "_"}
    assert set(METHODS) == promised
    assert promised <= set(vars(ManagerBackend))
    asked = {name for name in promised - own if hasattr(vars(ManagerBackend)[name], "__wrapped__")}
    assert asked == promised - own


# --- bad days -------------------------------------------------------------------------------


def test_a_manager_that_comes_back_is_found_again(
    manager: RunningManager, backend: ManagerBackend, tmp_path: Path
) -> None:
    """Killed: unavailable, in this project's words. Started anew, with another key: as before."""
    Story(backend).start()
    manager.process.kill()
    manager.process.wait()
    for _ in range(2):
        with pytest.raises(RegistryUnavailableError):
            backend.stats()
    before = Door.read(manager.door)
    with running_manager(manager.door):
        assert Door.read(manager.door).key != before.key
        assert backend.stats()["conversations"] == 0, "its memory went with it"
        Story(backend).start()


def test_a_manager_that_was_replaced_meanwhile_is_no_error(
    manager: RunningManager, backend: ManagerBackend
) -> None:
    """An idle connection finds out when it is used, and the new manager is asked instead."""
    backend.stats()
    manager.process.terminate()
    assert manager.process.wait(WAIT_S) == 0
    with running_manager(manager.door):
        assert backend.stats()["conversations"] == 0


def test_a_manager_that_stands_still_is_unavailable(
    manager: RunningManager, backend: ManagerBackend
) -> None:
    """Nobody waits for ever; once it goes on, so does everybody else."""
    story = Story(backend)
    story.start()
    manager.process.send_signal(signal.SIGSTOP)
    fresh = ManagerBackend(manager.door, organism="desk", timeout_s=0.1)
    for each in (fresh, ManagerBackend(manager.door, organism="desk", timeout_s=0.1)):
        with pytest.raises(RegistryUnavailableError):
            each.stats()
    manager.process.send_signal(signal.SIGCONT)
    assert fresh.stats()["conversations"] == 1
    assert story.row.id == story.id


def test_an_interrupted_call_leaves_no_answer_to_another(
    manager: RunningManager, backend: ManagerBackend
) -> None:
    """A handler's time is over while it asks the registry: the late answer goes to nobody."""
    backend.stats()

    class TimeIsOver(BaseException):
        pass

    def strike(*_: Any) -> None:
        raise TimeIsOver

    before = signal.signal(signal.SIGALRM, strike)
    manager.process.send_signal(signal.SIGSTOP)
    server = psutil.Process(manager.process.pid)
    eventually(lambda: server.status() == psutil.STATUS_STOPPED, what="the manager stands still")
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(TimeIsOver):
            backend.conversations(limit=5)
    finally:
        signal.signal(signal.SIGALRM, before)
        manager.process.send_signal(signal.SIGCONT)
    assert backend.threads("nobody's") == {}
    assert backend.stats()["conversations"] == 0


# --- strangers ------------------------------------------------------------------------------


class Bomb:
    """Pickled, it makes whoever unpickles it create a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return open, (str(self._file), "w")


def test_nothing_of_a_stranger_is_unpickled(
    manager: RunningManager, backend: ManagerBackend, tmp_path: Path
) -> None:
    """In place of the answer to the challenge, or after a wrong one: neither is looked at."""
    made = tmp_path / "made"
    bomb = pickle.dumps((None, "create", (Bomb(made),), {}))
    pickle.loads(pickle.dumps(Bomb(tmp_path / "works"))).close()
    assert (tmp_path / "works").exists(), "the bomb is one"
    door = Door.read(manager.door)
    for answer in (bomb, b"#DIGEST#" + b"0" * 16):
        with socket.socket(socket.AF_UNIX) as plug:
            plug.connect(door.address)
            with Connection(plug.detach()) as connection:
                connection.recv_bytes()
                connection.send_bytes(answer)
                with contextlib.suppress(EOFError, OSError):
                    connection.send_bytes(bomb)  # it may have hung up by now
                    while True:  # until it does
                        connection.recv_bytes()
    with pytest.raises(AuthenticationError):
        _connection(Door(door.address, b"guessed"), 5.0)
    assert not made.exists()
    assert backend.stats()["conversations"] == 0, "it serves its own"


@pytest.mark.parametrize("knows_how", [True, False])
def test_a_manager_without_the_key_is_not_believed(tmp_path: Path, knows_how: bool) -> None:
    """Somebody else listens at the address: what it sends is not unpickled either."""
    made = tmp_path / "made"
    address = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        Door(address, b"secret").write(tmp_path / "door")

        def impostor() -> None:
            plug, _ = listener.accept()
            with Connection(plug.detach()) as connection:
                if knows_how:
                    connection.send_bytes(b"#CHALLENGE#" + b"0" * 20)
                    connection.recv_bytes()
                    connection.send_bytes(b"#WELCOME#")
                    connection.recv_bytes()
                    connection.send_bytes(b"0" * 16)
                connection.send(("#RETURN", Bomb(made)))
                with contextlib.suppress(EOFError, OSError):
                    while True:  # until the other side hangs up
                        connection.recv_bytes()

        serving = threading.Thread(target=impostor)
        serving.start()
        with pytest.raises(RegistryUnavailableError, match="AuthenticationError"):
            ManagerBackend(tmp_path / "door", organism="desk").stats()
        serving.join(WAIT_S)
    assert not made.exists()


def test_a_door_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """Its key may be known, and whoever knows it can make us unpickle anything."""
    door = tmp_path / "door"
    Door("/nowhere", b"secret").write(door)
    assert stat.S_IMODE(door.stat().st_mode) == 0o600
    door.chmod(0o640)
    with pytest.raises(PermissionError):
        Door.read(door)
    with pytest.raises(RegistryUnavailableError):
        ManagerBackend(door, organism="desk").stats()


# --- its process ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly(manager: RunningManager, backend: ManagerBackend, number: int) -> None:
    """Also with clients connected; neither door nor socket is left."""
    backend.stats()
    address = Path(Door.read(manager.door).address)
    assert stat.S_IMODE(address.stat().st_mode) & 0o077 == 0
    manager.process.send_signal(number)
    assert manager.process.wait(WAIT_S) == 0
    assert not manager.door.exists()
    assert not address.exists()


def test_there_is_one_manager_behind_a_door(
    manager: RunningManager, backend: ManagerBackend
) -> None:
    """A second one says so and leaves the first alone; what a killed one left is replaced."""
    Story(backend).start()
    with start_manager(manager.door) as second:
        _, said = second.communicate(timeout=WAIT_S)
    assert (second.returncode, said.decode()) == (
        TAKEN,
        f"a manager serves {manager.door} already\n",
    )
    assert backend.stats()["conversations"] == 1
    manager.process.kill()
    manager.process.wait()
    left = Door.read(manager.door)
    with running_manager(manager.door):
        assert Door.read(manager.door).address == left.address
        assert backend.stats()["conversations"] == 0


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """A socket's path is short; the door may lie anywhere."""
    deep = tmp_path / ("deep" * 25)
    with running_manager(deep / "door") as running:
        assert not Door.read(running.door).address.startswith(str(deep))
        assert ManagerBackend(running.door, organism="desk").stats()["conversations"] == 0
        place = Path(Door.read(running.door).address).parent
    assert not place.exists()


# --- from the organism ----------------------------------------------------------------------


def config() -> OrganismConfig:
    section = {"name": "desk", "backend": {"type": "manager"}}
    return load_mapping({"organism": section, "listeners": []})


def test_the_environment_names_the_door(manager: RunningManager) -> None:
    """The organism asks for a manager, the deployment says which."""
    connected = connect(config(), url=None, environ={"THREADLOOM_MANAGER": str(manager.door)})
    conversation = str(uuid.uuid4())
    Story(connected, id=conversation).start()
    shared = ManagerBackend(manager.door, organism="desk")
    assert shared.conversation(conversation) is not None


@pytest.mark.parametrize(
    ("door", "problem"),
    [
        (None, "THREADLOOM_MANAGER names no manager; `threadloom up` starts one"),
        ("missing", "no manager serves"),
        ("open", "readable to nobody else"),
        ("strange", "is not a manager's"),
    ],
)
def test_what_is_wrong_with_the_door_is_told_at_the_start(
    tmp_path: Path, door: str | None, problem: str
) -> None:
    """As a problem of the organism's configuration, with its place in the file."""
    Door("/nowhere", b"secret").write(tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "strange").write_text("{}")
    (tmp_path / "strange").chmod(0o600)
    environ = {"THREADLOOM_MANAGER": str(tmp_path / door)} if door else {}
    with pytest.raises(ConfigurationError) as caught:
        connect(config(), url=None, environ=environ)
    [found] = caught.value.problems
    assert found.path == "organism.backend.type"
    assert problem in found.message
