"""What is given to users: the wheel and the sdist, and what a copy without links says.

`.ci/wheel` installs the wheel and works with it; here are the lists of what is in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.harness import ROOT

#: not part of the project: what tools leave in a checkout
LEFT_BY_TOOLS = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "*.egg-info"
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the project, its links as they are, for setuptools to write into."""
    copy = tmp_path_factory.mktemp("distribution") / "checkout"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=LEFT_BY_TOOLS)
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path) -> Path:
    """The folder with the sdist, and the wheel that was built from the sdist."""
    done = build(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout / "dist"


def build(checkout: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m build` with the setuptools that is installed here."""
    return subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *options, str(checkout)],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},  # setuptools has deprecations of its own
        capture_output=True,
        text=True,
    )


def wheel_files(folder: Path) -> dict[str, bytes]:
    """What is in the only wheel there, without what describes the wheel itself."""
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        return {name: archive.read(name) for name in names}


def project_files(checkout: Path) -> dict[str, bytes]:
    """What lies under threadloom/ in the checkout, through its links."""
    found: dict[str, bytes] = {}
    for folder, _, names in os.walk(checkout / "threadloom", followlinks=True):
        for file in (Path(folder, name) for name in names):
            found[file.relative_to(checkout).as_posix()] = file.read_bytes()
    return found


def test_the_wheel_is_threadloom_and_nothing_else(checkout: Path, built: Path) -> None:
    """Every file under threadloom/ and no other: no second top-level name, no test, no data lost.

    So a package, a schema or a script that is added to the project is in the wheel, too.
    """
    packed = wheel_files(built)
    assert packed == project_files(checkout)
    assert {name.partition("/")[0] for name in packed} == {"threadloom"}
    assert {"py", "typed", "lua", "xsd"} <= {name.rpartition(".")[2] for name in packed}
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        top_level = {name.partition("/")[0] for name in archive.namelist()}
    assert top_level == {"threadloom", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}


def test_the_sdist_holds_files_and_builds_the_same_wheel(checkout: Path, built: Path) -> None:
    """Whoever unpacks it where there are no links has everything; its wheel is the checkout's."""
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if not (member.isfile() or member.isdir())] == []
    packed = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert set(project_files(checkout)) <= packed
    assert not any(name.startswith(("tests/", "examples/", "benchmarks/")) for name in packed)
    directly = built.with_name("directly")
    done = build(checkout, "--wheel", "--outdir", str(directly))
    assert done.returncode == 0, done.stdout + done.stderr
    assert wheel_files(directly) == wheel_files(built)


def test_a_copy_without_links_says_so(checkout: Path, tmp_path: Path) -> None:
    """git with core.symlinks=false writes text files instead: neither make nor pip goes on."""
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy, symlinks=True, ignore=LEFT_BY_TOOLS)
    link = copy / "threadloom" / "routing"
    target = os.readlink(link)
    link.unlink()
    link.write_text(target)
    said = "routing in threadloom/ should be"
    made = subprocess.run(["sh", ".ci/venv"], cwd=copy, capture_output=True, text=True)
    assert (made.returncode, said in made.stderr) == (1, True), made.stderr
    assert not (copy / ".venv").exists(), "it stopped before it installed anything"
    done = build(copy, "--wheel")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
