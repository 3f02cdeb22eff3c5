"""Modules of an organism's own folder, in real workers: whatever they are called, and Django's."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import threadloom
from tests.harness import ROOT, WAIT_S, Deployment, Worker

#: a folder with names of ours and of the standard library
SHOP = {
    "organism.yaml": """
organism: {name: shop}
listeners:
  - name: till
    payload_class: routing.Order
    handler: tasks.sell
    description: Sells.
""",
    "routing.py": """
from dataclasses import dataclass
from threadloom import payload
@payload
@dataclass
class Order:
    pieces: int
@payload
@dataclass
class Bill:
    text: str
""",
    "config/__init__.py": "from . import settings\n",
    "config/settings.py": "PRICE = 7\n",
    "service.py": "from config.settings import PRICE\ndef price(pieces): return pieces * PRICE\n",
    "tabnanny.py": "MINE = 'my own module'\n",
    "tasks.py": """
from threadloom import HandlerMetadata, HandlerResponse
from routing import Bill, Order
import service
def sell(message: Order, meta: HandlerMetadata) -> HandlerResponse:
    import tabnanny
    from config import settings
    total = service.price(message.pieces)
    return HandlerResponse.respond(Bill(f"{total} at {settings.PRICE} in {tabnanny.MINE}"))
""",
}

SETTINGS = """
from pathlib import Path
SECRET_KEY = "not secret"
INSTALLED_APPS = ["orders"]
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent.parent / "db.sqlite3",
}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
GREETING = "thank you"
"""
#: a project as `django-admin startproject` lays it out, with an organism beside `manage.py`
DJANGO = {
    "organism.yaml": """
organism: {name: orders}
listeners:
  - name: place
    payload_class: orders.handlers.Place
    handler: orders.handlers.place
    description: Places an order.
""",
    "proj/__init__.py": "",
    "proj/settings.py": SETTINGS,
    "proj/celery.py": """
import os
from pathlib import Path
from celery import Celery
import threadloom
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = Celery("proj", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.autodiscover_tasks()
threadloom.attach(app, Path(__file__).parents[1] / "organism.yaml")
""",
    "orders/__init__.py": "",
    "orders/models.py": """
from django.db import models
class Order(models.Model):
    pieces = models.IntegerField()
""",
    "orders/tasks.py": """
from celery import shared_task
from orders.models import Order
@shared_task
def count(): return Order.objects.count()
""",
    "orders/handlers.py": """
from dataclasses import dataclass
from django.conf import settings
from threadloom import HandlerMetadata, HandlerResponse, payload
from .models import Order
@payload
@dataclass
class Place:
    pieces: int
@payload
@dataclass
class Placed:
    text: str
def place(message: Place, meta: HandlerMetadata) -> HandlerResponse:
    from orders.models import Order as Again
    assert Again is Order
    Order.objects.create(pieces=message.pieces)
    return HandlerResponse.respond(Placed(f"{settings.GREETING} for {Order.objects.count()}"))
""",
}


def written(files: dict[str, str], folder: Path) -> Path:
    """The files in a folder; returns its organism file."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / "organism.yaml"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Where logs go: a folder beside the one that is tried."""
    folder = tmp_path / "records"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("cwd", ["the folder", "elsewhere"])
def test_a_folder_may_use_names_of_ours(
    deployment_url: Callable[[], str], tmp_path: Path, records: Path, cwd: str
) -> None:
    """`tasks.py`, `config/settings.py`, `service.py`, `routing.py`, and the standard `tabnanny`.

    They are the handlers' own, and nobody else's: Celery and Threadloom work beside them.
    """
    organism = written(SHOP, tmp_path / "shop")
    deployment = Deployment(organism, redis_url=deployment_url(), directory=records)
    deployment.directory_of_workers = organism.parent if cwd == "the folder" else ROOT
    try:
        deployment.start_worker(concurrency=1)
        value = deployment.ask("till", {"pieces": 3})
        assert value["payload"] == {"text": "21 at 7 in my own module"}
        assert value["type"] == "Bill"
    finally:
        deployment.close()


def test_two_organisms_in_one_process_run_their_own(
    deployment_url: Callable[[], str], tmp_path: Path, records: Path
) -> None:
    """Two folders with the same names of modules: each worker, and each app here, has its own."""
    url = deployment_url()
    dear = {**SHOP, "config/settings.py": "PRICE = 100\n"}
    dear["organism.yaml"] = dear["organism.yaml"].replace("name: shop", "name: dear")
    (records / "dear").mkdir()
    shop = Deployment(written(SHOP, tmp_path / "shop"), redis_url=url, directory=records)
    other = Deployment(written(dear, tmp_path / "dear"), redis_url=url, directory=records / "dear")
    try:
        for deployment in (shop, other):
            deployment.start_worker(concurrency=1)
        bills = [d.ask("till", {"pieces": 1})["payload"]["text"] for d in (shop, other)]
        assert [bill.split()[0] for bill in bills] == ["7", "100"]
    finally:
        shop.close()
        other.close()


def test_an_object_of_the_senders_own_class_is_taken(
    deployment_url: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender imports the payloads on its own path; the listener's are of its own space."""
    organism = written(SHOP, tmp_path / "shop")
    app = threadloom.create_app(organism, redis_url=deployment_url())
    monkeypatch.syspath_prepend(str(organism.parent))
    monkeypatch.delitem(sys.modules, "routing", raising=False)
    order = importlib.import_module("routing").Order
    assert threadloom.inject(app, "till", order(2)).id
    monkeypatch.delitem(sys.modules, "routing")
    app.close()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A Django project with its database."""
    folder = tmp_path / "project"
    written(DJANGO, folder)
    program = (
        "import django; django.setup(); from django.core.management import call_command as c\n"
        "c('makemigrations', 'orders', verbosity=0); c('migrate', verbosity=0)"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "proj.settings", "PYTHONPATH": "."}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
    return folder


@pytest.mark.parametrize("app_module", ["threadloom", "proj"])
def test_handlers_of_a_django_project_use_its_models(
    deployment_url: Callable[[], str], project: Path, records: Path, app_module: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Started from the project's folder, by `-A threadloom` and by `-A proj`, which attaches it.

    The models are Django's own and loaded once. Rows that one delivery wrote are there for the
    next one, in whichever process it runs.
    """
    url = deployment_url()
    monkeypatch.syspath_prepend(str(project))  # as in the project's own processes
    environment = {"DJANGO_SETTINGS_MODULE": "proj.settings", "BROKER": _celery(url)}
    sender = subprocess.run(
        [sys.executable, "-c", "import threadloom as t; t.create_app('organism.yaml')"],
        cwd=project, capture_output=True, text=True, check=False,
        env={**os.environ, **environment, "PYTHONPATH": f"{ROOT}:{project}",
             "THREADLOOM_REDIS_URL": url},
    )  # fmt: skip
    assert sender.returncode == 0, sender.stderr
    worker = _worker(app_module, project, records / "worker.log", url, environment)
    try:
        worker.wait_ready()
        from celery import Celery

        outside = Celery("outside", broker=_celery(url), backend=_celery(url), set_as_current=False)
        told = [
            outside.send_task("place", [{"pieces": n}], queue="orders").get(timeout=WAIT_S)
            for n in range(3)
        ]
        assert [value["payload"]["text"] for value in told] == [
            f"thank you for {n}" for n in (1, 2, 3)
        ]
        if app_module == "proj":
            assert outside.send_task("orders.tasks.count").get(timeout=WAIT_S) == 3
        outside.close()
    finally:
        worker.stop()


def _celery(url: str) -> str:
    from threadloom.config.celery_settings import celery_url

    return celery_url(url)


def _worker(app: str, folder: Path, log: Path, url: str, environment: dict[str, str]) -> Worker:
    name = "django@test"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "celery", "-A", app, "worker", "-c", "2", "-l", "INFO",
                "--hostname", name, "--without-gossip", "--without-mingle",
            ],
            cwd=folder,
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT),
                 "THREADLOOM_REDIS_URL": url},
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return Worker(process, log, name)
