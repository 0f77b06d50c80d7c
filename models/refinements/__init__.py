"""Refinements of a context: every module here is imported when a registry is first read."""

from models.refinements.protocol import Refinement, refinements

__all__ = ["Refinement", "refinements"]
