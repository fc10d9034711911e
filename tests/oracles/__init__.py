"""Independent reference answers: nothing in here imports bnjax."""
