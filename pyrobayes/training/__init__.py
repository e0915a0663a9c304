"""Training factorizations, and the folders that trained models are kept in."""
