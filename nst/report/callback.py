"""The report at the end of a sweep, through a callback of Hydra."""

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nst.errors import UserError
from nst.report.write import write_report

log = logging.getLogger(__name__)


class WriteReport(Callback):
    """Writes the report of a sweep into its folder, unless ``report`` is false."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write it; a sweep that has run is not spoilt by a report that cannot be written."""
        if OmegaConf.select(config, "report", default=True):
            write_sweep_report(Path(config.hydra.sweep.dir))


def write_sweep_report(folder: Path) -> None:
    """Write the report of a sweep into its folder, and tell where it is, or why there is none; raises nothing."""
    try:
        written = write_report([folder])
    except UserError as error:
        log.warning("There is no report: %s", error)
    except Exception as error:  # whatever it is, the runs are done and their files are complete
        log.warning("There is no report: %s: %s", type(error).__name__, error)
        log.debug("The report failed.", exc_info=True)
    else:
        log.info("Report: %s", written.files[0])
        for note in written.beside:
            log.info(note)
