"""A cosine of at least `similarity` of the embeddings that a model gives the texts as they are written."""

from __future__ import annotations

import pyarrow as pa

from mixture.dedup.cosines import cosine_groups
from mixture.dedup.methods.base import METHODS, Groups, Method, Settings
from mixture.errors import UsageError
from mixture.text.strings import Strings


def _link(texts: pa.Array, settings: Settings) -> Groups:
    if settings.vectors is None:
        raise UsageError("the method semantic needs `encode`, from texts to embeddings")
    vectors = settings.vectors(Strings(pa.chunked_array([texts])))
    return cosine_groups(vectors, settings.similarity, progress=settings.progress)


METHODS["semantic"] = Method(link=_link, needs_encoder=True, model="BAAI/bge-large-en-v1.5")
