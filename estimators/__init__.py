"""Estimators of log p(x): every module here is imported when the registry is first read."""
