"""Images: which ones a source holds, their labels and splits, and how their bytes become pixels."""
