"""`scratch-gpt`: the command line, one file per command."""
