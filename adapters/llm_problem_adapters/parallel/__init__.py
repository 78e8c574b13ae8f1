"""How evaluations a second grow with the number of workers: measured, simulated, and in a formula."""
