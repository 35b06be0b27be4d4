"""tDRO: learns one sampling weight for each collection with a small proxy model."""

from trainers.tdro.objective import update_weights

__all__ = ["update_weights"]
