"""Learning weights: the learners, their settings, the loop around the proxy."""
