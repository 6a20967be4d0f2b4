"""Facts of the built-in images, scikit-learn's handwritten digits, that settings are checked against before torch is loaded."""

__all__ = ["DIGITS", "EVALUATION_STRIDE", "HELD_OUT", "IMAGE_SIZE", "KNOWN", "TRAINING_IMAGES"]

IMAGE_SIZE = 16
DIGITS = tuple(range(10))
HELD_OUT = (8, 9)
"""The classes that the model of `loralith pretrain` has never seen."""
KNOWN = tuple(digit for digit in DIGITS if digit not in HELD_OUT)
EVALUATION_STRIDE = 5
"""Every fifth image of a class is kept for evaluation."""
TRAINING_IMAGES = {8: 139, 9: 144}
"""What is left of each held-out class for training."""
