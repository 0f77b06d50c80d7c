"""What runs an experiment: its schema, its phases, its results; `app` is the way in."""
