"""Layers on a device: their numbers, their lists and what they return. Numpy only; runs on a board."""
