"""Where a mixture comes from, drawn as a tree."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from mixture.registry.lineage import Ancestor, Run

# Of a run's settings, those that say most of it on one line.
TELLING = ("algorithm", "steps", "batch_size", "learning_rate", "seed", "average")


def as_tree(node: Ancestor) -> Tree:
    """A mixture and its ancestors; print it with rich."""
    tree = Tree(Text(_said(node)), guide_style="dim")
    _grow(tree, node)
    return tree


def _grow(tree: Tree, node: Ancestor) -> None:
    if node.run:
        _grow_run(tree, node.run)
    for parent in node.parents:
        _grow(tree.add(Text(_said(parent))), parent)


def _grow_run(tree: Tree, run: Run) -> None:
    branch = tree.add(Text(" ".join(_said_of_run(run))))
    for used in run.runs:
        _grow_run(branch, used)


def _said(node: Ancestor) -> str:
    if node.reference is None:
        return f"{node.id}  not in this store"
    if node.seen or node.created_at is None:
        return f"{node.reference}  {node.id}  (shown above)"
    origin = f"imported from {node.imported_from}" if node.imported_from else None
    day = f"{node.created_at:%Y-%m-%d %H:%M}"
    held = f"{node.forgotten:,} forgotten row{'s' * (node.forgotten != 1)}" if node.forgotten else None
    cut = f"(more: mixture log {node.id})" if node.cut else None
    return "  ".join(filter(None, (node.reference, node.id, day, node.note, origin, held, cut)))


def _said_of_run(run: Run) -> Iterator[str]:
    if run.kind is None:
        yield f"run {run.run_id}, not in this store"
        return
    yield f"run {run.run_id}: {run.kind}, {run.status}"
    yield from (f"{name}={run.settings[name]}" for name in TELLING if run.settings.get(name) is not None)
