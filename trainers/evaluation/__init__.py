"""Scoring models on suites. A module that is imported here may put a metric of its own into `metrics.METRICS`."""
