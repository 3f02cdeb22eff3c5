"""Refuses to build from a checkout without its links; all else stands in pyproject.toml.

Where git or an archiver could not make links, threadloom/ holds small text files in their place,
and what was built would lack most of its modules without a word.
"""

from pathlib import Path

from setuptools import setup

_HERE = Path(__file__).parent

broken = [
    entry.name
    for entry in sorted(_HERE.joinpath("threadloom").iterdir())
    if not entry.is_dir() and not entry.suffix
]
if broken:
    raise SystemExit(
        f"threadloom: in this copy of the project {broken[0]} in threadloom/ should be a link to "
        "the folder beside it and is not. Clone it with git on a file system that has links "
        "(git config core.symlinks true, then git checkout -- threadloom)"
    )

setup()
