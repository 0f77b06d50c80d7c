"""What turns a configuration into a trained, evaluated and stored run."""
