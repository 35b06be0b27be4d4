"""The model side's jobs: what the commands call, over a store or a materialised folder. `trainers` hands them on."""
