"""A verdict on robustness: a suite of attacks, their worst case, and the checks of it."""
