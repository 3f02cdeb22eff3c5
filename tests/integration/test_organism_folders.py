"""Organisms in folders of users' own: whatever their modules are called, and beside each other."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.harness import WAIT_S
from tests.project import Project, write
from threadloom import tasks

NewProject = Callable[..., Project]


@pytest.fixture
def project(deployment_url: Callable[[], str]) -> Iterator[NewProject]:
    """Make a project of a folder; its workers end with the test."""
    with ExitStack() as stack:

        def made(folder: Path, **environment: str) -> Project:
            return stack.enter_context(closing(Project(folder, deployment_url(), **environment)))

        yield made


BOOKS = {
    "organism.yaml": """
        organism: {name: books}
        listeners:
          - {name: till, payload_class: service.Sale, handler: service.sell, description: Sells.}
        """,
    "service.py": """
        from dataclasses import dataclass
        from threadloom import HandlerResponse, payload
        from config import settings
        from config.settings import CURRENCY
        from routing import ROUTES
        from tasks import price
        import codeop
        import threadloom_x

        @payload
        @dataclass
        class Sale:
            title: str

        @payload
        @dataclass
        class Receipt:
            text: str

        def sell(message, meta):
            from routing import shelf
            import code  # it imports the standard `codeop`, and here for the first time
            parts = [price(message.title), CURRENCY, shelf(message.title), threadloom_x.MARK]
            parts.append(codeop.MARK)
            return HandlerResponse.respond(Receipt(" ".join([*parts, settings.__name__[-8:]])))
        """,
    "tasks.py": "def price(title):\n    return str(len(title))\n",
    "config/settings.py": "CURRENCY = 'EUR'\n",
    "routing.py": "ROUTES = {}\ndef shelf(title):\n    return title[:1]\n",
    "threadloom_x.py": "MARK = 'x'\n",
    "codeop.py": "MARK = 'own'\n",
}


@pytest.mark.parametrize(
    ("start", "package"),
    [("in the folder", True), ("elsewhere", False), ("beside a link", True)],
)
def test_a_folder_with_modules_called_like_ours(
    project: NewProject, tmp_path: Path, start: str, package: bool
) -> None:
    """`tasks.py`, `config/settings.py`, `service.py` and `routing.py` of a user's own, and a
    `codeop.py` that is not the standard one. `config` may have an `__init__.py` or none.

    The worker is started among them, or elsewhere, or where a link leads to the organism file:
    for `check` and for the worker that is the folder of the file itself, whatever lies beside the
    link.
    """
    folder = write(tmp_path / "books", BOOKS | ({"config/__init__.py": ""} if package else {}))
    cwd, named = folder, {}
    if start == "elsewhere":
        cwd, named = tmp_path, {"THREADLOOM_ORGANISM": str(folder / "organism.yaml")}
    elif start == "beside a link":
        cwd = write(tmp_path / "link", {"tasks.py": "1/0\n"})
        (cwd / "organism.yaml").symlink_to(folder / "organism.yaml")
    books = project(cwd, **named)
    assert "can start" in books.run("-P", "-m", "threadloom", "check")
    books.start_worker()
    answer = books.ask("till", {"title": "Emma"}, queue="books")
    assert answer == {"text": "4 EUR E x own settings"}


SHOP = {
    "organism.yaml": """
        organism: {name: NAME}
        listeners:
          - name: clerk
            payload_class: handlers.Ask
            handler: handlers.clerk
            description: Asks the store.
          - {name: store, payload_class: handlers.Want, handler: queue.store, description: Gives.}
        """,
    "handlers.py": """
        from dataclasses import dataclass
        from threadloom import HandlerResponse, payload

        @payload
        @dataclass
        class Ask:
            what: str

        @payload
        @dataclass
        class Want:
            what: str

        @payload
        @dataclass
        class Answer:
            text: str

        def clerk(message, meta):
            if isinstance(message, Ask):
                return HandlerResponse(Want(message.what), to="store")
            from queue import Given
            assert isinstance(message, Given.Thing), type(message)
            return HandlerResponse.respond(Answer(f"NAME gives {message.what}"))
        """,
    "queue.py": """
        from dataclasses import dataclass
        from threadloom import HandlerResponse, payload

        class Given:
            @payload
            @dataclass
            class Thing:
                what: str

        def store(message, meta):
            return HandlerResponse.respond(Given.Thing(message.what))
        """,
}


def test_two_organisms_with_modules_of_one_name(
    project: NewProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own `handlers.py`, and a `queue.py` that hides the standard one from it alone.

    One process injects into both, with objects of either organism's class and with those of the
    class that it imports for itself. Replies are of a nested class that no listener declares.
    """
    apps: dict[str, Any] = {}
    for name in ("north", "south"):
        files = {file: text.replace("NAME", name) for file, text in SHOP.items()}
        folder = write(tmp_path / name, files)
        shop = project(folder, THREADLOOM_ORGANISM=str(folder / "organism.yaml"))
        shop.start_worker(cwd=tmp_path)
        apps[name] = tasks.create_app(folder / "organism.yaml", redis_url=shop.redis_url)
    kinds = {
        name: tasks.runtime_of(app).organism.listeners["clerk"].accepts["Ask"].cls
        for name, app in apps.items()
    }
    monkeypatch.syspath_prepend(str(tmp_path / "south"))
    kinds["the process"] = importlib.import_module("handlers").Ask
    del sys.modules["handlers"]
    assert len(set(kinds.values())) == 3
    results = {
        (name, whose): tasks.inject(app, "clerk", kind(whose))
        for name, app in apps.items()
        for whose, kind in kinds.items()
    }
    for (name, whose), result in results.items():
        assert result.get(timeout=WAIT_S)["payload"] == {"text": f"{name} gives {whose}"}
    for app in apps.values():
        app.close()


DJANGO = {
    "organism.yaml": """
        organism: {name: orders}
        listeners:
          - {name: desk, payload_class: handlers.New, handler: handlers.new, description: Takes.}
          - {name: list, payload_class: orders.messages.All, handler: orders.listing.every,
             description: Lists.}
        """,
    "config/__init__.py": "",
    "config/settings.py": """
        from pathlib import Path
        SECRET_KEY = "x"
        INSTALLED_APPS = ["orders"]
        USE_TZ = True
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        GREETING = "hello"
        DATABASES = {"default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(__file__).parent.parent / "db.sqlite3",
        }}
        LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {}}
        """,
    "orders/__init__.py": "",
    "orders/models.py": """
        from django.db import models

        class Order(models.Model):
            title = models.CharField(max_length=50)
        """,
    "orders/signals.py": """
        from django.db.models.signals import pre_save
        from django.dispatch import receiver
        from .models import Order

        @receiver(pre_save, sender=Order)
        def mark(instance, **_):
            instance.title += "!"
        """,
    "orders/messages.py": """
        from dataclasses import dataclass
        from threadloom import payload

        @payload
        @dataclass
        class All:
            pass

        @payload
        @dataclass
        class Titles:
            titles: list[str]
            connections: int
        """,
    "orders/listing.py": """
        from django.db import connections
        from threadloom import HandlerResponse
        from .messages import Titles
        from .models import Order

        def every(message, meta):
            opened = sum(c.connection is not None for c in connections.all())
            titles = list(Order.objects.order_by("pk").values_list("title", flat=True))
            return HandlerResponse.respond(Titles(titles, opened))
        """,
    "handlers.py": """
        from dataclasses import dataclass
        from django.conf import settings
        from django.db import transaction
        import orders.models
        import orders.signals
        from orders.models import Order
        from threadloom import HandlerResponse, payload

        assert orders.models.Order is Order

        @payload
        @dataclass
        class New:
            title: str

        @payload
        @dataclass
        class Done:
            text: str

        def new(message, meta):
            with transaction.atomic():
                Order.objects.get_or_create(title=message.title)
            return HandlerResponse.respond(Done(settings.GREETING))
        """,
    "manage.py": """
        import sys
        from django.core.management import execute_from_command_line
        execute_from_command_line(sys.argv)
        """,
}
#: what Celery's documentation has a Django project do, and one line more
DJANGO_CELERY = {
    "config/__init__.py": """
        from .celery import app as celery_app
        __all__ = ("celery_app",)
        """,
    "config/celery.py": """
        import os
        from celery import Celery
        from threadloom import attach

        app = Celery("config", broker=os.environ["SITE_BROKER"],
                     backend=os.environ["SITE_BROKER"])
        app.autodiscover_tasks()
        attach(app, "organism.yaml")
        """,
    "orders/tasks.py": """
        from celery import shared_task

        @shared_task
        def count():
            from orders.models import Order
            return Order.objects.count()
        """,
}


@pytest.mark.parametrize(
    ("extra", "app"),
    [({}, "threadloom"), (DJANGO_CELERY, "config")],
    ids=["our app", "the project's app"],
)
def test_a_django_project_whose_handlers_use_its_models(
    project: NewProject, tmp_path: Path, extra: dict[str, str], app: str
) -> None:
    """Models and signal receivers are the project's own, registered once, and every message finds
    the database connections closed. The worker is started in the project's folder, whose settings
    are in a package that is called like one of ours.
    """
    folder = write(tmp_path / "site", DJANGO | extra)
    site = project(folder, DJANGO_SETTINGS_MODULE="config.settings")
    site.run("manage.py", "makemigrations", "orders")
    site.run("manage.py", "migrate")
    assert json.loads(site.run("-P", "-m", "threadloom", "check", "--json"))["ok"]
    site.start_worker(app=app)
    for title in ("Emma", "Persuasion"):
        assert site.ask("desk", {"title": title}, queue="orders") == {"text": "hello"}
    answers = [site.ask("list", {}, queue="orders") for _ in range(4)]
    assert answers == [{"titles": ["Emma!", "Persuasion!"], "connections": 0}] * 4
    if extra:
        assert site.result("orders.tasks.count") == 2
