"""The cost of a method: by formula, as a target to solve for, and for input-adaptive methods on real images."""
