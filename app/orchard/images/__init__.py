"""Images: which ones a source holds, what they are for, and how their bytes become pixels."""
