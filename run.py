"""Run one experiment, or with ``-m`` a sweep: ``python run.py --help``."""

from nst import api, callbacks, cli

if __name__ == "__main__":
    cli.launch(api.main, callbacks.command_lines, callbacks.finish)
