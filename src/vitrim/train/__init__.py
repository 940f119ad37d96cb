"""Training and fine-tuning with fewer tokens: recipes, the task, the loop, checkpoints."""
