"""The command: what was typed -> one function -> an exit code.

Each command has a file. Its function takes parsed arguments, and returns an exit code or raises ExplainedError, which
`error_lines` turns into a line and an exit code. Commands catch errors only if they have more to say.
"""
