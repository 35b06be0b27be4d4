"""Evaluation suites in BEIR layout and lists of test queries, read by one set of rules for every command."""
