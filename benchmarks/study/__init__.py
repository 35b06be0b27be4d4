"""What learned mixtures bring, on real collections: a recipe of cells, run by any number of processes, and its tables.

python benchmarks/study --help
"""
