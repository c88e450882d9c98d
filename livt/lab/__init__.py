"""What to train, what was trained, and where: recipes, suites, experiments, the run store, machines."""
