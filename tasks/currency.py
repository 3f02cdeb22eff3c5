"""Which Celery app a process means by `current_app`, `shared_task` and `signature`.

Where an organism's app is the only one, it is that app: otherwise a `shared_task` or a
`signature("clerk")` of a producer would go to Celery's fallback, a broker on this machine. An app
that a team has made keeps its place.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, _state

#: the name of the app that Celery makes by itself when somebody asks for one and there is none
_FALLBACK = "default"


def make_current(app: Celery) -> None:
    """Make the app current and default, unless the process has another one that is."""
    if _is_taken(app):
        return
    app.set_current()
    app.set_default()


def _is_taken(app: Celery) -> bool:
    state: Any = _state  # whose stubs lack these
    known = (state._tls.current_app, state.default_app)
    if any(other is not None and other is not app and not _is_fallback(other) for other in known):
        return True
    # In another thread, an app that was made here is current only here.
    others = (other for other in state._get_active_apps() if other is not app)
    return any(other.set_as_current for other in others)


def _is_fallback(app: Any) -> bool:
    return bool(app.main == _FALLBACK and not app.set_as_current)
