"""From features to principal components: one-pass moments, standard scaling and PCA, on Spark."""
