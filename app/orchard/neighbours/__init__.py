"""The nearest training images of every image, and what they say of the split."""
