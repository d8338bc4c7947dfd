"""The one training loop, its checkpoints, device and precision."""
