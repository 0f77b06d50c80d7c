"""Data sets: every module here is imported when the registry is first read."""
