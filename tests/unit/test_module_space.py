"""Module spaces: what an import means in an organism's own modules, and what stays unaffected."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import py_compile
import queue
import sys
import traceback
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from threadloom.config import ModuleSpace, public

Files = dict[str, str]
Open = Callable[..., ModuleSpace]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open the space of a folder after writing these files into it.

    Opening leaves `sys.path` as it was, and after the test no module of the space may remain.
    """
    before = set(sys.modules)
    spaces: list[ModuleSpace] = []

    def open_space(files: Files | None = None, *, folder: str = "desk") -> ModuleSpace:
        write(tmp_path / folder, files or {})
        path = list(sys.path)
        spaces.append(ModuleSpace(tmp_path / folder, label=folder))
        assert sys.path == path
        return spaces[-1]

    yield open_space
    for space in spaces:
        space.discard()
    assert not [name for name in set(sys.modules) - before if public(name) != name]


def _is_in(folder: Path, name: str) -> bool:
    return str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder))


def write(folder: Path, files: Files) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


# --- what belongs to whom -------------------------------------------------------------------


def test_two_folders_with_modules_of_one_name_share_nothing(opened: Open) -> None:
    """Each `handlers` module has its own `prices`, although the other folder's was loaded first."""
    files = {"handlers.py": "from prices import PRICE\n", "prices.py": "PRICE = 1\n"}
    first = opened(files, folder="first")
    second = opened(files | {"prices.py": "PRICE = 2\n"}, folder="second")
    assert first.import_module("handlers").PRICE == 1
    assert second.import_module("handlers").PRICE == 2
    assert first.import_module("handlers") is first.import_module("handlers")
    assert not {"handlers", "prices"} & set(sys.modules)


def test_reading_again_loads_the_new_code_beside_the_old(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of one digit within one second is noticed, which cached bytecode would miss.

    Functions of the old code keep using the old module.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "desk" / "handlers.py"
    old = opened({"handlers.py": "RATE = 1\ndef rate():\n    return RATE\n"})
    rate, written = old.import_module("handlers").rate, file.stat().st_mtime_ns
    new = opened({"handlers.py": "RATE = 2\ndef rate():\n    return RATE\n"})
    os.utime(file, ns=(written, written))
    assert (rate(), new.import_module("handlers").rate()) == (1, 2)


@pytest.mark.parametrize(
    "name",
    ["tasks", "config.settings", "service", "routing", "threadloom_x", "primitives", "tests"],
)
def test_the_folders_modules_may_be_called_like_ours(name: str, opened: Open) -> None:
    """A project may have modules such as `tasks.py` and `config/settings.py`."""
    file = f"{name.replace('.', '/')}.py"
    space = opened({file: "MINE = True\n", "handlers.py": f"from {name} import MINE\n"})
    assert space.import_module("handlers").MINE is True


@pytest.mark.parametrize("name", ["queue", "types", "json", "os", "time"])
def test_a_module_called_like_a_standard_one_hides_it_from_the_folder_alone(
    name: str, opened: Open
) -> None:
    """The folder's `queue.py` wins for the folder's modules; for all other code nothing changes."""
    code = f"import {name}\nimport functools, concurrent.futures\nMINE = {name}.MINE\n"
    space = opened({f"{name}.py": "MINE = 7\n", "handlers.py": code})
    before = sys.modules[name]
    assert space.import_module("handlers").MINE == 7
    assert sys.modules[name] is before is importlib.import_module(name)
    assert not hasattr(before, "MINE")
    assert queue.Queue  # this module's own


def test_nothing_in_the_folder_passes_for_threadloom(opened: Open) -> None:
    """A stray `threadloom.py` in the folder does not replace the real package, and so the real
    `payload`.
    """
    space = opened({"threadloom.py": "", "handlers.py": "from threadloom import payload\n"})
    assert space.import_module("handlers").payload is importlib.import_module("threadloom").payload


def test_what_is_not_in_the_folder_is_the_processs(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed modules and those on PYTHONPATH are imported once, under their own names."""
    write(tmp_path / "installed", {"space_installed.py": "", "space_deep/__init__.py": ""})
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    code = "import space_installed, space_deep as deep\nimport xml.dom.minidom\n"
    handlers = opened({"handlers.py": code}).import_module("handlers")
    assert handlers.space_installed is sys.modules.pop("space_installed")
    assert handlers.deep is sys.modules.pop("space_deep")
    assert handlers.xml.dom.minidom is sys.modules["xml.dom.minidom"]


# --- forms of import ------------------------------------------------------------------------

SHOP = {
    "shop/__init__.py": "NAME = 'shop'\n",
    "shop/models.py": "class Order: ...\n",
    "shop/parts/__init__.py": "",
    "shop/parts/wheel.py": "from ..models import Order\nfrom . import axle\n",
    "shop/parts/axle.py": "SIZE = 3\n",
}


@pytest.mark.parametrize(
    ("statement", "expression"),
    [
        ("import shop.models", "shop.models.Order"),
        ("import shop.models as m", "m.Order"),
        ("import shop.parts.wheel as w", "w.Order"),
        ("import shop.parts.wheel", "shop.parts.wheel.axle.SIZE and shop.parts.wheel.Order"),
        ("from shop import models", "models.Order"),
        ("from shop import models as m, NAME", "NAME and m.Order"),
        ("from shop.models import Order", "Order"),
        ("from shop.models import *", "Order"),
        ("from shop.parts import wheel", "wheel.Order"),
        ("import shop; import shop.models", "shop.models.Order"),
        ("shop = __import__('shop.models')", "shop.models.Order"),
        ("import importlib; m = importlib.import_module('.shop.models', __package__)", "m.Order"),
    ],
)
def test_every_form_of_import_finds_the_folders_module(
    statement: str, expression: str, opened: Open
) -> None:
    """An import at the top of a module, in a function that runs later, and in code compiled
    there all give the same class.
    """
    inside = statement.replace("import *", "import Order")
    code = (
        f"{statement}\nAT_TOP = {expression}\n"
        f"def later():\n    {inside}\n    return {expression}\n"
        f"def compiled():\n    names = {{'__package__': __package__}}\n"
        f"    exec({statement!r}, names)\n    return eval({expression!r}, names)\n"
    )
    space = opened(SHOP | {"handlers.py": code})
    handlers = space.import_module("handlers")
    order = space.import_module("shop.models").Order
    assert handlers.AT_TOP is handlers.later() is handlers.compiled() is order


def test_two_modules_that_import_each_other(opened: Open) -> None:
    """A circle is loaded as Python loads circles, each module once."""
    files = {
        "one.py": "import two\ndef name():\n    return two.NAME\nRUNS = [1]\n",
        "two.py": "import one\nNAME = 'two'\ndef runs():\n    import one\n    return one.RUNS\n",
    }
    space = opened(files)
    assert space.import_module("one").name() == "two"
    assert space.import_module("two").runs() is space.import_module("one").RUNS


def test_a_folder_without_init_is_meant_by_those_who_ask_for_what_lies_in_it(
    opened: Open,
) -> None:
    """`parts/` is a package.

    `json` means the standard package, and only `json.wheel` means the folder's.
    """
    code = (
        "import json, parts.wheel\nfrom parts import axle\nfrom json import loads\n"
        "from json import wheel\nfrom json.wheel import A\nimport json.decoder\n"
    )
    wheel = {f"{folder}/wheel.py": "A = 1\n" for folder in ("parts", "json")}
    files = {**wheel, "parts/axle.py": "B = 2\n", "json/data.txt": "", "handlers.py": code}
    handlers = opened(files).import_module("handlers")
    assert (handlers.parts.wheel.A, handlers.axle.B) == (1, 2)
    assert (handlers.wheel.A, handlers.A) == (1, 1)
    assert handlers.json is sys.modules["json"]
    assert handlers.loads is handlers.json.loads


def test_a_module_without_its_source(opened: Open, tmp_path: Path) -> None:
    """Imports in a module that was shipped compiled also find the folder's modules."""
    space = opened({"source.py": "from prices import PRICE\n", "prices.py": "PRICE = 1\n"})
    py_compile.compile(str(tmp_path / "desk" / "source.py"), str(tmp_path / "desk" / "shut.pyc"))
    assert space.import_module("shut").PRICE == 1


def test_a_guarded_main_and_imports_for_type_checkers_do_not_run(opened: Open) -> None:
    """In these modules `__name__` is not `__main__`, and TYPE_CHECKING is false."""
    code = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from nowhere import Nothing\n"
        "def f(x: 'Nothing') -> None: ...\n"
        "if __name__ == '__main__':\n    raise SystemExit\n"
    )
    assert opened({"handlers.py": code}).import_module("handlers").f(1) is None


# --- what looks modules up by name ----------------------------------------------------------

KINDS = """
from __future__ import annotations
import dataclasses
import enum
import typing
import pydantic
from parts import Wheel

@dataclasses.dataclass
class Cart:
    wheels: list[Wheel]
    note: typing.ClassVar[str] = "not a field"
    seal: dataclasses.InitVar[int] = 0

class Model(pydantic.BaseModel):
    cart: Cart
    kind: Kind

class Kind(enum.Enum):
    FAST = "fast"

def make(wheel: Wheel) -> Cart:
    return Cart([wheel])
"""
PARTS = "import dataclasses\n@dataclasses.dataclass\nclass Wheel:\n    size: int\n"


def test_classes_with_annotations_that_are_text(opened: Open) -> None:
    """Dataclasses, `get_type_hints` and pydantic evaluate them in the folder's own modules."""
    space = opened({"kinds.py": KINDS, "parts.py": PARTS})
    kinds, wheel = space.import_module("kinds"), space.import_module("parts").Wheel
    assert get_type_hints(kinds.Cart)["wheels"] == list[wheel]
    assert get_type_hints(kinds.make) == {"wheel": wheel, "return": kinds.Cart}
    assert list(kinds.Cart.__dataclass_fields__) == ["wheels", "note", "seal"]
    assert kinds.Cart([wheel(1)], 3) == kinds.make(wheel(1))
    made = kinds.Model.model_validate({"cart": {"wheels": [{"size": 2}]}, "kind": "fast"})
    assert (made.cart, made.kind) == (kinds.Cart([wheel(2)]), kinds.Kind.FAST)


def test_objects_are_pickled_within_the_process(opened: Open) -> None:
    """Each of two spaces gets its own class back."""
    for folder in ("first", "second"):
        space = opened({"kinds.py": KINDS, "parts.py": PARTS}, folder=folder)
        wheel = space.import_module("parts").Wheel(1)
        assert pickle.loads(pickle.dumps(wheel)) == wheel
        assert type(pickle.loads(pickle.dumps(wheel))) is type(wheel)
        assert pickle.loads(pickle.dumps(space.import_module("kinds").make)).__module__


def test_what_is_imported_by_a_text_is_the_processs(opened: Open) -> None:
    """`strptime`, unpickling and `import_module` import by a name given as text.

    Wherever they are called, they import the process's module and not one of that name in the
    folder.
    """
    code = (
        "import datetime, importlib, pickle\n"
        "def parse():\n    return datetime.datetime.strptime('2020', '%Y').year\n"
        "def load():\n    return pickle.loads(b'ckinds\\nThing\\n.')\n"
    )
    files = {"handlers.py": code, "_strptime.py": "1/0\n", "kinds.py": "class Thing: ...\n"}
    handlers = opened(files).import_module("handlers")
    assert handlers.parse() == 2020
    for by_name in (handlers.load, lambda: handlers.importlib.import_module("kinds")):
        with pytest.raises(ModuleNotFoundError, match="No module named 'kinds'"):
            by_name()


def test_tracebacks_and_digests_are_of_the_real_file(opened: Open, tmp_path: Path) -> None:
    """A traceback shows the line in the file, and the digest of each file that ran is known."""
    space = opened({"handlers.py": "def fail():\n    return 1 / 0\n", "unused.py": ""})
    with pytest.raises(ZeroDivisionError) as caught:
        space.import_module("handlers").fail()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    file = tmp_path / "desk" / "handlers.py"
    assert (last.filename, last.line) == (str(file), "return 1 / 0")
    assert space.files == {str(file): sha256(file.read_bytes()).hexdigest()}


def test_a_modules_logger_is_the_one_of_its_public_name(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """`getLogger(__name__)` has the public name `space_voice` and the level that was set for it."""
    code = "import logging\nlogger = logging.getLogger(__name__)\n"
    voice = opened({"space_voice.py": code}).import_module("space_voice")
    with caplog.at_level(logging.ERROR, logger="space_voice"):
        voice.logger.warning("unheard")
    with caplog.at_level(logging.DEBUG, logger="space_voice"):
        voice.logger.debug("heard")
    assert [(r.name, r.message) for r in caplog.records] == [("space_voice", "heard")]


def test_private_names_are_taken_out_of_texts(opened: Open) -> None:
    """Texts for people name modules as the organism file does."""
    cart = opened({"shop/kinds.py": "class Cart: ...\n"}).import_module("shop.kinds").Cart
    assert repr(cart) != (told := public(f"{cart!r} and {cart!r}"))
    assert told == "<class 'shop.kinds.Cart'> and <class 'shop.kinds.Cart'>"
    assert public("threadloom.routing.faults") == "threadloom.routing.faults"


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "message", "name"),
    [
        ("import nowhere", "No module named 'nowhere'", "nowhere"),
        ("import shop.nowhere", "No module named 'shop.nowhere'", "shop.nowhere"),
        ("from shop.nowhere import x", "No module named 'shop.nowhere'", "shop.nowhere"),
        ("from shop import wrong", "No module named 'shop.gone'", "shop.gone"),
        ("import shop.models.x", "'shop.models' is not a package", "shop.models.x"),
    ],
)
def test_a_missing_module_is_called_by_its_public_name(
    statement: str, message: str, name: str, opened: Open
) -> None:
    """A handler's own `except ModuleNotFoundError` sees the name that the handler asked for."""
    files = SHOP | {"shop/wrong.py": "from . import models\nfrom .gone import x\n"}
    space = opened(files | {"handlers.py": statement})
    with pytest.raises(ModuleNotFoundError) as caught:
        space.import_module("handlers")
    assert message in str(caught.value)
    assert caught.value.name == name


@pytest.mark.parametrize("fault", ["1/0", "def (", "raise SystemExit", "from os import nothing"])
def test_a_module_that_fails_leaves_nothing_of_itself(fault: str, opened: Open) -> None:
    """A failed module is removed, and so is the module that imported it; after a repair both
    load.
    """
    files = {"handlers.py": "import good\nimport broken\n", "good.py": "", "broken.py": fault}
    space = opened(files)
    with pytest.raises(BaseException):  # noqa: B017, PT011  # whatever it is
        space.import_module("handlers")
    assert [space.loaded(name) for name in ("handlers", "broken")] == [None, None]
    mended = opened({"broken.py": "MENDED = True\n"})
    assert mended.import_module("handlers").broken.MENDED


def test_a_discarded_space_is_gone_and_what_runs_goes_on(opened: Open) -> None:
    """Functions of the discarded space still run, and another space of the folder is untouched."""
    files = {"handlers.py": "import json\nRATE = 2\ndef double(n):\n    return n * RATE\n"}
    space, other = opened(files), opened(files)
    double = space.import_module("handlers").double
    kept = other.import_module("handlers")
    space.discard()
    space.discard()
    assert double(4) == 8
    assert space.loaded("handlers") is None
    assert other.loaded("handlers") is kept
    assert not [
        name for name in sys.modules if name.startswith(double.__module__.rpartition(".")[0])
    ]


# --- what is shared with the process ---------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Files], Path]]:
    """Write a project's files into the folder `desk`, which the process can also import."""
    before = set(sys.modules)

    def made(files: Files) -> Path:
        write(tmp_path / "desk", files)
        monkeypatch.syspath_prepend(str(tmp_path / "desk"))
        return tmp_path / "desk"

    yield made
    for name in [n for n in set(sys.modules) - before if _is_in(tmp_path, n)]:
        del sys.modules[name]


def test_a_module_that_the_process_has_is_shared(
    project: Callable[[Files], Path], opened: Open
) -> None:
    """A module that the process imported before from the same file is not loaded a second time."""
    project({"space_models.py": "class Order: ...\n"})
    models: Any = importlib.import_module("space_models")
    code = "import space_models\nfrom space_models import Order\nimport space_later\n"
    space = opened({"handlers.py": code, "space_later.py": ""})
    handlers = space.import_module("handlers")
    assert handlers.space_models is space.loaded("space_models") is models
    assert handlers.Order is models.Order
    assert "space_later" not in sys.modules
    space.discard()
    assert sys.modules["space_models"] is models


def test_a_package_that_the_process_has_is_shared_with_all_that_is_in_it(
    project: Callable[[Files], Path], opened: Open
) -> None:
    """A Django app's `signals` or `tasks` are registered once, even if a handler imports them
    first. They have their ordinary names, and relative imports work.
    """
    project({
        "space_orders/__init__.py": "",
        "space_orders/models.py": "class Order: ...\n",
        "space_orders/signals.py": "from .models import Order\n",
        "space_orders/tasks.py": "",
    })  # fmt: skip
    models: Any = importlib.import_module("space_orders.models")
    code = (
        "from space_orders import signals, models\nimport space_orders.tasks\n"
        "from space_orders.models import Order\n"
    )
    handlers = opened({"handlers.py": code}).import_module("handlers")
    assert handlers.signals is sys.modules["space_orders.signals"]
    assert handlers.space_orders.tasks is sys.modules["space_orders.tasks"]
    assert handlers.signals.Order is handlers.Order is handlers.models.Order is models.Order


def test_a_module_in_a_folder_without_init_is_shared_by_its_file(
    project: Callable[[Files], Path], opened: Open
) -> None:
    """A namespace package is not shared as a whole: the modules that the process has imported
    are shared, the others are not.
    """
    project({"space_bare/models.py": "", "space_bare/handlers.py": "from . import models\n"})
    models = importlib.import_module("space_bare.models")
    handlers = opened().import_module("space_bare.handlers")
    assert handlers.models is models
    assert "space_bare.handlers" not in sys.modules


def test_another_file_of_the_same_name_is_not_shared(
    project: Callable[[Files], Path], opened: Open
) -> None:
    """Modules are the same if their file is the same; the name alone does not count."""
    project({"space_same.py": "WHOSE = 'the process'\n"})
    assert importlib.import_module("space_same").WHOSE == "the process"
    other = opened({"space_same.py": "WHOSE = 'the other'\n"}, folder="other")
    assert other.import_module("space_same").WHOSE == "the other"
    assert other.loaded("space_same") is not sys.modules["space_same"]
