"""Property tests of what people and accidents do to files: nothing hangs, nothing is lost."""
