"""The engine: text from a model, behind submit, step and cancel."""
