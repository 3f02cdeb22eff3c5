"""References to environment variables in the file, and that no secret from them is ever shown."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from threadloom import config
from threadloom.config import ConfigurationError, Settings
from threadloom.config.secrets import EnvironmentText, expand, masked, shown

ENVIRON = {"PW": "hunter2", "HOST": "cache", "EMPTY": "", "ODD": "a}b${PW}"}


@pytest.mark.parametrize(
    ("text", "value", "as_shown"),
    [
        ("plain", "plain", "plain"),
        ("$PW {PW} $", "$PW {PW} $", "$PW {PW} $"),
        ("${PW}", "hunter2", "${PW}"),
        ("a${PW}b${HOST}", "ahunter2bcache", "a${PW}b${HOST}"),
        ("${NONE:-x}", "x", "${NONE}"),
        ("${EMPTY:-x}", "x", "${EMPTY}"),
        ("${EMPTY}", "", "${EMPTY}"),
        ("${NONE:-}", "", "${NONE}"),
        ("${PW:-x}", "hunter2", "${PW}"),
        ("$${PW}", "${PW}", "${PW}"),
        ("$$${PW}", "$${PW}", "$${PW}"),
        ("${ODD}", "a}b${PW}", "${ODD}"),
    ],
)
def test_references_are_replaced_once(text: str, value: str, as_shown: str) -> None:
    """References work as in a shell; a variable's value is text and never another reference."""
    found = expand(text, ENVIRON)
    assert (str(found.text), found.faults) == (value, ())
    assert masked(found.text) == as_shown


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("${NONE}", "the environment has no variable NONE"),
        ("${}", "'${' does not begin"),
        ("${1}", "'${' does not begin"),
        ("${PW", "'${' does not begin"),
        ("${PW-x}", "'${' does not begin"),
    ],
)
def test_references_that_lead_nowhere_are_faults(text: str, fault: str) -> None:
    """A text that looks like a reference is never taken as plain text silently."""
    [found] = expand(text, ENVIRON).faults
    assert fault in found


@given(text=st.text())
def test_text_survives_when_escaped(text: str) -> None:
    """Any text comes back when `${` is written as `$${`, and it counts as the file's own text."""
    found = expand(text.replace("${", "$${"), {})
    assert (found.text, found.faults) == (text, ())
    assert not isinstance(found.text, EnvironmentText)


@pytest.mark.parametrize(
    ("text", "as_shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("amqp://user:pw@h//", "amqp://user:***@h//"),
        ("amqp://user:p/w@d:x@h//", "amqp://user:***@h//"),
        ("amqp://user:p w@h//", "amqp://user:***@h//"),
        ("https://key@sentry/1", "https://***@sentry/1"),
        ("redis://h/0?password=pw&db=1", "redis://h/0?password=***&db=1"),
        ("redis://h/0?db=1&api_key=pw", "redis://h/0?db=1&api_key=***"),
        ("amqp://a:pw@h1;amqp://b:pw@h2", "amqp://a:***@h2"),
        ("write to joe@h at 10:30", "write to joe@h at 10:30"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, as_shown: str) -> None:
    """A password is masked wherever the URL stands; in doubt, more is masked."""
    assert masked(text) == as_shown


@pytest.mark.parametrize(
    "key",
    [
        "password", "redis_backend_password", "PASSWD", "secret", "aws_secret_access_key", "token",
        "api_key", "apiKey", "security_key", "credentials", "private-key", "authkey",
    ],
)  # fmt: skip
def test_everything_under_a_secret_key_is_masked(key: str) -> None:
    """Texts, numbers and whole structures are masked; an absent value may be seen as absent."""
    assert shown({key: "pw", "x": {key: {"deep": ["pw", 7]}}}) == {key: "***", "x": {key: "***"}}
    assert shown({key: None}) == {key: None}


@pytest.mark.parametrize("key", ["task_routes", "bypass", "keyspace", "visibility_timeout"])
def test_ordinary_keys_are_shown(key: str) -> None:
    """Ordinary keys are not masked, because operators need to read them."""
    assert shown({key: {"a": [1, 2.5, True, None]}}) == {key: {"a": [1, 2.5, True, None]}}


def test_a_text_from_the_environment_is_plain_to_code_and_masked_in_print() -> None:
    """The text compares, formats and encodes as its value, also after pickling and copying."""
    text = expand("redis://:${PW}@h", ENVIRON).text
    for same in (text, pickle.loads(pickle.dumps(text)), copy.deepcopy(text)):
        assert same == "redis://:hunter2@h" == f"{same}" == json.loads(json.dumps(same))
        assert repr([same]) == "['redis://:${PW}@h']"


SECRET = "hunter2"
FILE = """
organism:
  name: desk
  backend: {redis_url: "redis://:${PW}@h:6379/0"}
  celery:
    broker_url: amqp://user:hunter2@mq//
    broker_url_2: ${PW}
    result_backend: redis://h/0?password=hunter2
    redis_password: hunter2
    broker_transport_options: {sentinel_kwargs: {password: hunter2}, list: ["${PW}"]}
    broker_use_ssl: {keyfile_token: [hunter2]}
listeners:
  - name: a
    payload_class: config.Problem
    handler: operator.eq
    description: Uses ${PW}.
    prompt: Say ${PW} at https://hunter2@example.org/.
    queue: ${PW}
"""


def test_nothing_that_people_see_shows_a_secret(tmp_path: Path) -> None:
    """No repr or str of any part shows it, nor does `sanitized`; code reads every value as it
    is.
    """
    path = tmp_path / "organism.yaml"
    path.write_text(FILE)
    found = config.load(path, environ=ENVIRON)
    section, [listener] = found.organism, found.listeners
    celery = section.celery
    parts = [found, section, section.backend, celery, celery["broker_transport_options"], listener]
    for part in [*parts, found.listeners, celery["broker_url_2"], listener.queue]:
        assert SECRET not in repr(part)
    for part in parts:
        assert SECRET not in str(part)
    assert SECRET not in json.dumps(found.sanitized())
    assert SECRET not in json.dumps(listener.sanitized())

    assert found.sanitized()["organism"]["backend"]["redis_url"] == "redis://:***@h:6379/0"
    assert listener.sanitized()["queue"] == "${PW}"
    assert section.backend.redis_url == "redis://:hunter2@h:6379/0"
    assert listener.description == "Uses hunter2."
    plain = celery.to_dict()
    assert type(plain["broker_url_2"]) is str
    assert plain["broker_transport_options"] == {
        "sentinel_kwargs": {"password": SECRET},
        "list": [SECRET],
    }


FAULTY_FILE = """
organism:
  name: ${PW}:x
  max_depth: ${PW}
  thread_scheduling: ${PW}
  backend: {redis_url: "redis://:pw:hunter2@h:hunter2/x", type: "${PW}", redis_prefix: "{${PW}"}
  celery: ${PW}
listeners:
  - name: a ${PW}
    payload_class: ["${PW}", "${PW}.Add", "config.${PW}", "secret_${PW}.x"]
    handler: ${PW}.${PW}
    description: x
    agent: ${PW}
    timeout_seconds: ${PW}
    rate_limit: ${PW}
    peers: ["${PW}", "${PW}"]
    queue: a ${PW}
    replies: redis://u:hunter2@h/
  - {name: "${PW}", payload_class: telling.Add, handler: telling.f, description: x,
     peers: ["${PW}s"]}
  - {name: "${PW}", payload_class: "${PATHS}", handler: telling.f, description: x, pw: "hunter2"}
  - ${PW}
"""


def test_no_error_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is hidden when a value is refused, when an import fails, and when a module's own
    exception quotes the environment.
    """
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "telling.py").write_text("raise RuntimeError('cannot log in with hunter2')")
    # the file must not spell the secret out, because then it would not be secret
    text = FAULTY_FILE.replace("hunter2", "${PW}")
    (tmp_path / "organism.yaml").write_text(text)
    environ = {**ENVIRON, "PATHS": "hunter2.Add"}
    with pytest.raises(ConfigurationError) as caught:
        config.load(tmp_path / "organism.yaml", environ=environ)
    assert len(caught.value.problems) > 20
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert "raised RuntimeError: cannot log in with ${PW}" in str(caught.value)

    (tmp_path / "organism.yaml").write_text(FAULTY_FILE)
    found, problems = config.read(tmp_path / "organism.yaml", environ={**environ, "PW": "other"})
    literal = [p for p in problems if p.path.startswith("organism") or "replies" in p.path]
    assert len(literal) > 5
    assert SECRET not in str(literal)
    assert "other" not in str(literal)
    assert SECRET not in repr(found)


def test_a_refused_model_does_not_print_its_input() -> None:
    """Code may also build models, and pydantic would quote the input that it refuses."""
    with pytest.raises(ValidationError) as caught:
        config.BackendConfig(redis_url="http://:hunter2@h")
    assert SECRET not in str(caught.value)


def test_settings_cannot_be_changed_through_what_they_hand_out() -> None:
    """The mapping, the values inside it and the source it was made from cannot change the
    settings.
    """
    source = {"a": {"b": [1, {"c": 2}]}}
    settings = Settings(source)
    source["a"]["b"].append(3)
    settings.to_dict()["a"]["b"].append(4)
    assert settings.to_dict() == {"a": {"b": [1, {"c": 2}]}}
    with pytest.raises(TypeError):
        settings["a"] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        settings["a"]["b"][1]["c"] = 1
    with pytest.raises(AttributeError):
        settings["a"]["b"].append(1)
