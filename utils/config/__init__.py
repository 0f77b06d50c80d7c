"""Configuration: YAML files, merging, validation, identity."""
