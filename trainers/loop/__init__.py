"""What every training shares: steps, checkpoints, stopping, trackers."""
