"""Runs `mixture`; before the statement of that number, of those in transactions, it kills itself, or waits for a file.

The text of this file is given to `python -c`, with NUMBER FOLDER WORD…. Where FOLDER is there, it writes `here` in it
and waits for `go`; else it kills itself. NUMBER 0: neither. It ends with how many statements there were.
"""

import os
import sys
import time
from pathlib import Path

from cli import app
from mixture.store import connect
from mixture.store.connect import Store

at, folder = int(sys.argv[1]), Path(sys.argv[2])
inside, count, known = [0], [0], connect._connect


class Watched:
    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def execute(self, query, *given):
        if inside[0] or query.startswith("CALL"):
            count[0] += 1
            if count[0] == at and not folder.is_dir():
                os.kill(os.getpid(), 9)
            if count[0] == at:
                (folder / "here").touch()
                while not (folder / "go").exists():
                    time.sleep(0.05)
        return self.real.execute(query, *given)


def transaction(self, work, real=Store._transaction):
    inside[0] += 1
    try:
        return real(self, work)
    finally:
        inside[0] -= 1


def connected(*given, read_only):
    made = known(*given, read_only=read_only)
    return made if read_only else Watched(made)


connect._connect, Store._transaction = connected, transaction
try:
    app(sys.argv[3:], standalone_mode=True)
finally:
    print(f"statements: {count[0]}", file=sys.stderr)
