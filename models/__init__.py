"""Generative models, approximate posteriors and losses."""
