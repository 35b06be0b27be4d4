"""Which rows: a subset whose distribution is near a target's, by optimal transport (GORACS, arXiv 2506.04015).

Arrays in, arrays out; `mixture.jobs.coreset` has the store. Shapes: T candidates, V target rows, n chosen.
"""

from mixture.coreset.choose import Coreset, choose
from mixture.coreset.costs import Costs, score_gradients

__all__ = ["Coreset", "Costs", "choose", "score_gradients"]
