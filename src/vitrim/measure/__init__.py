"""Accuracy, speed, memory, multiply-adds and diversity of plain modules on real images."""
