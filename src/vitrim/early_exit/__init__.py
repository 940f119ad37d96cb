"""Inference that ends, for each image, at the first exit that is sure; and the threshold for it."""
