"""Run one experiment, or with ``-m`` a sweep: ``python run.py --help``."""

import hydra
from omegaconf import DictConfig

from nst import cli, config, sweep

config.register()
sweep.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Optimise one picture as the configuration says."""
    from nst import experiment  # here, so that --help and a typo need not wait for torch

    experiment.run_job(cfg)


if __name__ == "__main__":
    cli.launch(main)
