"""What a caller's miner, rescorer, judge and name of a mining mean."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from mixture.arguments import is_name
from mixture.errors import UsageError
from mixture.ingest.normalise import PROVIDED
from mixture.mining import MINERS, Miner
from mixture.mining.judges import Judge, Remembering, program
from mixture.mining.miners import Encode, Rescore
from mixture.mining.negatives import RANDOM
from mixture.store import Store, layout


def chosen(
    name: str, encode: Encode | None, encoder: Callable[[str], Encode] | None
) -> tuple[Miner, str, Callable[[], Encode | None]]:  # fmt: skip
    """What a miner's name means: the miner, the name to record, and what makes the encoder of one that needs it."""
    first, colon, model = name.partition(":")
    if first.lower() in MINERS:
        first = first.lower()
        name = first + colon + model
    elif encode is None and not Path(name).exists() and (near := difflib.get_close_matches(first.lower(), MINERS)):
        raise UsageError(f"no miner {first!r}; did you mean {near[0]!r}? A model of that name is dense:{name} "
                         f"(miners: {', '.join(MINERS)})")  # fmt: skip
    else:
        first, model = "dense", name
    miner = MINERS[first]
    if not miner.needs_encoder:
        if model or encode is not None:
            raise UsageError(f"the miner {first} reads no model; leave away {'`encode`' if encode else repr(model)}")
        return miner, name, lambda: None
    if encode is not None:
        return miner, name, lambda: encode
    if not model and miner.model:
        model = miner.model
        name = f"{first}:{model}"
    if not model:
        raise UsageError(f"the miner {first} needs a model: {first}:MODEL in `miner`")
    if encoder is None:
        raise UsageError(f"`miner` is {name!r}, which names a model (miners: {', '.join(MINERS)}); hand the model "
                         f"over as encode=trainers.encode_with({model!r})")  # fmt: skip

    def encoding() -> Encode:
        try:
            return encoder(model)
        except UsageError as error:
            raise UsageError(f"{error} (miners: {', '.join(MINERS)})") from error

    return miner, name, encoding


def rescoring(
    recorded: str, rescore: Rescore | str | None, rescorer: Callable[[str], Rescore] | None
) -> tuple[str, Callable[[], Rescore | None]]:  # fmt: skip
    """The name to record, and what makes the function that scores pairs anew, if any does."""
    if rescore is None:
        return recorded, lambda: None
    if not isinstance(rescore, str):
        return f"{recorded}+{getattr(rescore, '__name__', 'rescored')}", lambda: rescore
    if rescorer is None:
        raise UsageError(f"`rescore` is {rescore!r}, which names a model; hand it over as"
                         f" rescore=trainers.rescore_with({rescore!r})")  # fmt: skip
    return f"{recorded}+{rescore}", lambda: rescorer(rescore)


def judging(store: Store, judge: Judge | str | None) -> Judge | None:
    """A program's answers are kept in the store's folder."""
    if not isinstance(judge, str):
        return judge
    return Remembering(program(judge), layout.judgements(store.work, judge))


def checked(name: str) -> str:
    """A name for a mining; a `UsageError` for one that could be taken for a miner's."""
    if not is_name(name) or name.lower() in {*MINERS, RANDOM, PROVIDED}:
        raise UsageError(f"`name` is {name!r}; allowed: a letter or digit, then letters, digits, '.', '_' or '-', and "
                         f"not {', '.join([*MINERS, RANDOM, PROVIDED])}")  # fmt: skip
    return name
