"""The command line's own: commands, options, tables, progress bars. Typer, rich and prompt_toolkit live here alone."""
