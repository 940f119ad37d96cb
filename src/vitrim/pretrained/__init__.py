"""Reduced models in folders and on the Hugging Face hub: weights, what to build, and how to reduce it."""
