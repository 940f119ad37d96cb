"""Measure plain modules on images: accuracy, speed, memory, multiply-adds, diversity."""
