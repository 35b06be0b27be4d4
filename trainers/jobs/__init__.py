"""The model side's jobs: store and registry around the training loops. `trainers` hands them on."""
