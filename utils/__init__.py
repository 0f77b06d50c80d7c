"""What knows nothing of models: configuration, registries, data, results, checkpoints, console."""
