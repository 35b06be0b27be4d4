"""BEIR layout (arXiv 2104.08663): where suites lie, what they are called, which file says what, how a line reads.

```
<suite>/corpus.jsonl         one document a line: _id, title (may be absent), text
<suite>/queries.jsonl        one query a line: _id, text
<suite>/qrels/<split>.tsv    query id, document id, grade between tabs, with a header or without; or qrels.tsv
```
Each file may be packed with gzip (.gz) or zstandard (.zst). This module looks at names and lines and imports no reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from mixture.arguments import Names, listed
from mixture.errors import UsageError

PACKED = ("", ".gz", ".zst")
CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
LAYOUT = f"a suite folder holds {CORPUS}, {QUERIES} and qrels/test.tsv (each may end in .gz or .zst)"
TEST_SPLITS = ("test", "dev")
# The public BEIR archive keeps the twelve CQADupStack forums one folder deeper than its other suites.
SEARCH_DEPTH = 2


def find_suites(paths: Names) -> list[Path]:
    """The suite folders at `paths`: each a suite itself, or a folder of suites (sorted, at most two levels down).

    A folder with a corpus or a queries file counts as a suite, so that an incomplete one is an error where it is read
    and not quietly left out. Hidden folders do not count. Raises UsageError where a path holds none, and where two
    suites share a name, because results and test queries are kept under the suite's name.
    """
    by_name: dict[str, Path] = {}
    for path in (Path(given).expanduser() for given in listed(paths)):
        if not path.is_dir():
            raise UsageError(f"no folder {path}; {LAYOUT}")
        found = list(_suites_below(path, SEARCH_DEPTH))
        if not found:
            raise UsageError(f"{path}: no {CORPUS} and no {QUERIES} in it or up to two folders below; {LAYOUT}")
        for suite in found:
            known = by_name.setdefault(suite_name(suite), suite)
            if known.resolve() != suite.resolve():
                raise UsageError(
                    f"two suites are called {suite_name(suite)!r}: {known} and {suite}; give one at a time"
                )
    if not by_name:
        raise UsageError(f"no suite given; {LAYOUT}")
    return list(by_name.values())


def _suites_below(folder: Path, depth: int) -> Iterator[Path]:
    if packed_file(folder, CORPUS) or packed_file(folder, QUERIES):
        yield folder
    elif depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _suites_below(child, depth - 1)


def suite_name(folder: Path) -> str:
    """The folder's own name, also where the path is `.` or a link."""
    return folder.resolve().name


def packed_file(folder: Path, name: str) -> Path | None:
    """The file of that name, plain or else packed; None when there is none."""
    return next((file for packed in PACKED if (file := folder / (name + packed)).is_file()), None)


def required_file(folder: Path, name: str) -> Path:
    """`packed_file`. Raises UsageError when there is none."""
    if file := packed_file(folder, name):
        return file
    raise UsageError(f"{folder} has no {name}; {LAYOUT}")


def qrels_files(folder: Path) -> dict[str, Path]:
    """The judgements by split. qrels.tsv beside the other files counts as `test` where qrels/ has no test."""
    names = {file.name.removesuffix(p) for p in PACKED for file in (folder / "qrels").glob(f"[!.]*.tsv{p}")}
    files = {name.removesuffix(".tsv"): packed_file(folder / "qrels", name) for name in sorted(names)}
    splits = {split: file for split, file in files.items() if file}
    if single := packed_file(folder, "qrels.tsv"):
        splits.setdefault("test", single)
    return splits


def qrels_to_test(folder: Path, split: str | None = None) -> Path:
    """The judgements to test on: of the split named, else of `test`, else `dev`, else the only one that is not `train`.

    Raises UsageError when that leaves none.
    """
    splits = qrels_files(folder)
    if not splits:
        raise UsageError(f"{folder} has no qrels/{split or 'test'}.tsv; {LAYOUT}")
    if split is None:
        others = [name for name in splits if name != "train"]
        split = next((name for name in TEST_SPLITS if name in splits), others[0] if len(others) == 1 else None)
    if split is None:
        there = ", ".join(sorted(splits))
        raise UsageError(f"{folder / 'qrels'}: there are {there}; expected {' or '.join(TEST_SPLITS)}.tsv")
    if split not in splits:
        raise UsageError(f"{folder} has no split {split!r}; there are: {', '.join(sorted(splits))}")
    return splits[split]


def identifier(value: object) -> str | None:
    """An id as text, None where there is none. Some exports write JSON numbers, and qrels can only hold their text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value or None if isinstance(value, str) else None


def judgement(line: str) -> tuple[str, str, str]:
    """Query id, document id and grade of a line of qrels, as text: three columns between tabs (between blanks where
    there is no tab), or TREC's four, of which the second says nothing.

    Raises ValueError for another number of columns.
    """
    fields = line.rstrip().split("\t") if "\t" in line else line.split()
    if len(fields) not in (3, 4):
        raise ValueError(f"line has {len(fields)} columns; expected query id, document id and score")
    return fields[0], fields[-2], fields[-1]


def grade(text: str) -> float | None:
    """The number in the last column of qrels; None for what is no number. A first line without one is the header."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
