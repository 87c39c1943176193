"""Run one experiment, or with ``-m`` a sweep: ``python run.py --help``."""

import hydra
from omegaconf import DictConfig

from nst import callbacks, cli, configuration

configuration.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> object:
    """Optimise one picture as the configuration says; a sampler is told its scores."""
    from nst import job  # here, so that --help and a typo need not wait for torch

    return job.run_job(cfg)


if __name__ == "__main__":
    cli.launch(main, callbacks.command_lines, callbacks.finish)
