"""Reduced models into folders and onto the Hugging Face hub: weights, what to build, and how to reduce it."""
