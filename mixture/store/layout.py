"""Every folder and name under a store. Who writes, reads or frees one asks here; nobody else spells a name.

Loads no duckdb: a machine that trains from a materialised folder has none. There `root` is that folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from mixture.errors import UsageError

# While a component is written its folder begins so, and a file ends so; a kill leaves them.
WRITING = ".writing-"
SCRATCH = ".tmp"
LEFTOVERS = ("spill-*", f"{WRITING}*", f"materialised/components/{WRITING}*", f"materialised/components/*/{WRITING}*",
             f"materialised/{WRITING}*", f"materialised/*{SCRATCH}", f"matches/*{SCRATCH}",
             f"embeddings/*/{WRITING}*", "embeddings/*/.search-*")  # fmt: skip
REFERENCE_EMBEDDINGS = "reference-embeddings"
BRANCHES = "branches"
RUN = re.compile(r"(?:reference-|verdict-)?([0-9a-f]{12})")
TINY_MODEL = re.compile(r"tiny-\w+-([0-9a-f]{12})-[0-9]+")
SPEC = re.compile(r"[0-9a-f]{12}\.json")
SPACE = re.compile(r"[0-9a-f]{16}")
EMBEDDINGS = re.compile(r".+-(?:bf16|fp32)")


def cache() -> Path:
    """Where this machine keeps what can be made again, of stores that are elsewhere."""
    named = os.environ.get("MIXTURE_CACHE")
    return Path(named or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / (
        "" if named else "mixture"
    )


def leftovers(root: Path) -> list[Path]:
    """What looks like a kill's leftovers; some of it may be at work."""
    return [path for pattern in LEFTOVERS for path in sorted(root.glob(pattern))]


def catalog(root: Path, kind: str) -> Path:
    """The lake's catalog where it is a file, by the kind of database."""
    return root / f"catalog.{kind}"


def staged_catalog(root: Path, kind: str) -> Path:
    """A catalog that is being copied; a kill leaves it."""
    return root / f"{WRITING}catalog.{kind}"


def lock(root: Path) -> Path:
    """The file by which processes that write take turns."""
    return root / "write.lock"


def data(root: Path) -> Path:
    """The folder of the lake's Parquet files."""
    return root / "data"


def spill(root: Path) -> Path:
    """A new folder for what a query has no memory for; DuckDB makes it when it must, and removes it."""
    return root / f"spill-{uuid.uuid4().hex[:12]}"


def materialised(root: Path) -> Path:
    return root / "materialised"


def spec(folder: Path, mixture: str) -> Path:
    """Of a materialised folder, the file with a mixture's spec."""
    return folder / f"{mixture}.json"


def specs(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if is_spec(file.name))  # not mixture.json


def is_spec(name: str) -> bool:
    """Whether a file of a materialised folder is a mixture's spec."""
    return SPEC.fullmatch(name) is not None


def chosen(known: Sequence[str], mixture: str | None, where: object) -> str:
    """The id of the mixture that is meant of those that a materialised folder holds: the only one, or that which begins
    so. Raises `UsageError` where there is none, or several."""
    if not known:
        raise UsageError(f"{where} holds no materialised mixture; `mixture export` writes one")
    found = [name for name in known if mixture is None or name.startswith(mixture)]
    if len(found) != 1:
        raise UsageError(f"{where} holds the mixtures {', '.join(known)}; name one by its id")
    return found[0]


def fetched(place: str) -> Path:
    """What this machine has fetched of a materialised folder elsewhere, which is known by a hash."""
    return cache() / "fetched" / place


def component(folder: Path, digest: str) -> Path:
    """Of a materialised folder, the folder with the rows of a content."""
    return folder / "components" / digest


def components(folder: Path) -> list[Path]:
    """The contents that a materialised folder holds, without those that are being written."""
    return sorted(path for path in component(folder, "").glob("[!.]*") if path.is_dir())


def matches(root: Path, suites: str) -> Path:
    """What was counted against the registered suites, known by a hash of them."""
    return root / "matches" / f"{suites}.json"


def counted_matches(root: Path) -> dict[Path, str]:
    """The counts that are there, each with the hash of its suites."""
    return {path: path.stem for path in sorted((root / "matches").glob("[0-9a-f]" * 12 + ".json"))}


def tiny_model(root: Path, name: str, digests: Iterable[str], seed: int) -> Path:
    """The tiny model `name` that is built from the texts of these contents."""
    return root / "models" / f"{name}-{texts_id(digests)}-{seed}"


def tiny_models(root: Path) -> dict[Path, str]:
    """The tiny models that are there, each with the `texts_id` of what it was built from."""
    return _named(root / "models", TINY_MODEL)


def texts_id(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:12]


def run(root: Path, run_id: str) -> Path:
    """The checkpoints of a run that learns weights."""
    return root / "runs" / run_id


def reference(root: Path, run_id: str) -> Path:
    """The reference model that a run of its own trained."""
    return root / "runs" / f"reference-{run_id}"


def branches(root: Path) -> Path:
    """Trunks and branches that learners towards a target train, by what they depend on; runs share them."""
    return root / "runs" / BRANCHES


def verdict_model(root: Path, run_id: str) -> Path:
    """The model that a training for a verdict is at; it goes when its scores are in the store."""
    return root / "runs" / f"verdict-{run_id}"


def of_verdict(folder: str) -> bool:
    """Whether a folder, however it is written, is a `verdict_model`."""
    return run_of(folder) is not None and Path(folder).name.startswith("verdict-")


def runs(root: Path) -> dict[Path, str]:
    """The folders of runs that are there, models that runs trained among them, each with its run's id."""
    return _named(root / "runs", RUN)


def run_of(folder: str) -> str | None:
    """The id of the run that made a folder, however it is written; None where no run of a store did."""
    found = RUN.fullmatch(Path(folder).name)
    return found and found[1]


def embeddings(runs: Path, name: str) -> Path:
    """Where runs beside each other in a folder keep a reference's embeddings; for the name see `embeddings_name`."""
    return runs / REFERENCE_EMBEDDINGS / name


def embeddings_name(model: str, *, bf16: bool) -> str:
    """Embeddings depend on the model, known by what its files hold or by its name on the hub, and on the precision."""
    return f"{model.replace('/', '-')}-{'bf16' if bf16 else 'fp32'}"


def kept_embeddings(root: Path) -> list[Path]:
    """The references' embeddings that are there."""
    return sorted(path for path in embeddings(root / "runs", "").glob("*") if EMBEDDINGS.fullmatch(path.name))


def space(root: Path, name: str) -> Path:
    """The embeddings of texts that jobs keep, of one model, prompt, length and precision (`embeddings.Space.id`)."""
    return root / "embeddings" / name


def judgements(root: Path, judge: str) -> Path:
    """What a judge of candidates said, by the command that he is."""
    return root / "judgements" / f"{hashlib.sha256(judge.encode()).hexdigest()[:16]}.txt"


def spaces(root: Path) -> list[Path]:
    """The spaces of embeddings that are there."""
    return sorted(path for path in space(root, "").glob("*") if SPACE.fullmatch(path.name))


def _named(folder: Path, pattern: re.Pattern[str]) -> dict[Path, str]:
    found = ((path, pattern.fullmatch(path.name)) for path in sorted(folder.glob("*")))
    return {path: name[1] for path, name in found if name}
