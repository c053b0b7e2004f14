"""The nearest training images of every image, and near twins across the split."""
