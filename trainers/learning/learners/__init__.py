"""The algorithms that learn weights: tDRO and what it stands against, a module each.

Each module puts its learner into `LEARNERS`; the choices of `algorithm`, its options and its errors come from there.
"""

# ruff: noqa: F401
from trainers.learning.learners.cgd import Cgd
from trainers.learning.learners.chi2 import Chi2
from trainers.learning.learners.cvar import Cvar
from trainers.learning.learners.doremi import DoReMi
from trainers.learning.learners.drpruning import DrPruning
from trainers.learning.learners.ensemble import Ensemble
from trainers.learning.learners.groupdro import GroupDro
from trainers.learning.learners.influence import Influence
from trainers.learning.learners.kl import Kl
from trainers.learning.learners.kmm import Kmm
from trainers.learning.learners.learner import (
    LEARNERS,
    Found,
    Learner,
    LearnerOptions,
    Losses,
    TargetLearner,
    Tried,
    WeightLearner,
)
from trainers.learning.learners.rb import Rb
from trainers.learning.learners.search import Search
from trainers.learning.learners.tdro import Tdro
