"""The command: what was typed -> one function -> an exit code."""
