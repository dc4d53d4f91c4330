"""What the tests have reached, measured on the core, and what there is to reach, by definition."""
