"""Spark: its session, its properties, the JVM of its driver."""
