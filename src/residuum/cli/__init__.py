"""The command line: one file a command, each with a docstring (its help), `add_arguments(parser)` and `run(arguments)`.

The only room that prints. Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""
