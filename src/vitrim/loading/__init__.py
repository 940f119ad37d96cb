"""Load models by name, from a checkpoint file, a saved folder or a repository on the hub."""
