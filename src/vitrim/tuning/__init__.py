"""The best schedule for one model, its images and this machine, found without labels and without training."""
