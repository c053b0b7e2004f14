"""Faults of the data: likely wrong labels, duplicates, outliers, blurred and dark images."""
