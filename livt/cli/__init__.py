"""What the command line does, a family of commands in each module; ``livt.__main__`` starts it."""
