"""Django's models belong to the process: they are loaded before the modules of an organism are.

Celery's own fixup does the rest, since an organism's app is a Celery app like any other. It sets
Django up, too, but only when the worker starts, and it closes the database connections before
and after each task.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec

from threadloom.config import ConfigurationError, Problem

SETTINGS_VARIABLE = "DJANGO_SETTINGS_MODULE"


def set_up_django(source: str) -> None:
    """Call `django.setup()` if DJANGO_SETTINGS_MODULE is set and Django is installed.

    All models are then imported under their ordinary names, so that the modules of an organism
    share them (`config.module_space`): Django refuses a model that is loaded twice. Nothing
    happens where Django is set up already, or is just being set up by whoever calls this.

    Raises ConfigurationError, with `source` as what cannot start, for whatever the settings or
    the models raise.
    """
    settings = os.environ.get(SETTINGS_VARIABLE)
    if not settings or find_spec("django") is None:
        return
    apps = import_module("django.apps").apps
    if apps.ready or apps.loading:
        return
    try:
        import_module("django").setup()
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}".partition("\n")[0]
        text = f"setting up Django with {SETTINGS_VARIABLE}={settings} raised {reason}"
        raise ConfigurationError(source, [Problem("", text)]) from exc
