"""The `ansai` command line: `main` has the table of commands, one module each holds what they do."""
