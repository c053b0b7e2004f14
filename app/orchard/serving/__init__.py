"""Serves a model over HTTP: bounded uploads, one engine for each core, JSON answers, metrics, an access log."""
