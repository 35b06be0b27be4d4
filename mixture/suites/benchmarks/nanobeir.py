"""NanoBEIR: 50 queries of each of thirteen suites of BEIR, with a small corpus (hub: zeta-alpha-ai).

Its suites are called as those of BEIR, with `-nano`. The revisions are those that mteb pinned.
"""

from __future__ import annotations

from mixture.suites.benchmarks import beir
from mixture.suites.benchmarks.base import Part, register

REPOSITORIES = {
    "arguana": ("NanoArguAna", "8f4a982d470a32c45817738b9d29042ca55d75ad"),
    "climate-fever": ("NanoClimateFEVER", "96741bfa30b9f56db8c9eb7d08e775ed6474f206"),
    "dbpedia-entity": ("NanoDBPedia", "438f1c25129f05db6238699b5afdc9c6b58d2096"),
    "fever": ("NanoFEVER", "a8bfdf1bf15181167a7e22e69cf8754bdea9b4c8"),
    "fiqa": ("NanoFiQA2018", "4163ba032953d5044a7a6244261413f609c14342"),
    "hotpotqa": ("NanoHotpotQA", "d79c0cdda980aba54842756770928035e1b61a51"),
    "msmarco": ("NanoMSMARCO", "7b8ff22f2771dc65ac5b439f222eb19a1f56abda"),
    "nfcorpus": ("NanoNFCorpus", "dd542a7efb9ad2136b9e00768b60fca9038f8156"),
    "nq": ("NanoNQ", "77540146379abf95df8326a3c5bb9eb21c7146c3"),
    "quora": ("NanoQuoraRetrieval", "2ab2d73e6c862026282808b913a34f4136928545"),
    "scidocs": ("NanoSCIDOCS", "484eb90549fc3f0b9c42b3551e80ceb999515537"),
    "scifact": ("NanoSciFact", "309f1d1ae3ae2e092444a8a0c25bed59b82318bc"),
    "webis-touche2020": ("NanoTouche2020", "0d2f26ed8c5ad309f95c7f9499c70a40e140fccd"),
}

for _name, (_repo, _revision) in REPOSITORIES.items():
    register(Part(f"nanobeir/{_name}", f"{_name}-nano", (beir.source(f"zeta-alpha-ai/{_repo}", _revision, "train"),),
                  beir.read, ("ndcg@10",), "en", beir.INSTRUCTIONS[_name]))  # fmt: skip
