"""Variants of a question, as customers type it."""
