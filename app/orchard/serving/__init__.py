"""A model behind HTTP: uploads within limits, one engine for each core, answers in JSON, metrics and an access log."""
