"""How work is run, whatever the work is: knows no dataset, no config, no vendor."""
