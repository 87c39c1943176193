"""Write a trained network as an ONNX file, for other programs; checked against torch before it is kept.

    python scripts/export_onnx.py outputs/2026-05-01/10-00-00
    python scripts/export_onnx.py network.safetensors --output network.onnx

Takes a network file, or the folder of a training run. Any height and width from 16 up can be painted with the result;
a network of several styles has a second input, blend. Needs pip install -e '.[onnx]'.
Exits with 0 if the file is written, 1 after an error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nst import cli
from nst.errors import UserError


def main() -> int:
    """Export the network that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, help="a .safetensors file of a network, or the folder of its training")
    parser.add_argument("--output", type=Path, help="the file to write; beside the network if it is not given")
    arguments = parser.parse_args()

    from nst import transformers
    from nst.runs.resume import NETWORK_FILE
    from nst.transformers import onnx

    onnx.refuse_missing_packages()
    path: Path = arguments.network.expanduser()
    path = path / NETWORK_FILE if path.is_dir() else path
    output = (arguments.output or path.with_suffix(".onnx")).expanduser()
    if output.suffix != ".onnx":
        raise UserError(f"--output {output}: the name must end in .onnx.")
    network, about = transformers.load(path)
    difference = onnx.export(network, output, about)
    print(f"{output} ({output.stat().st_size:,} bytes); colours differ from torch's by at most {difference:.1g}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as mistake:
        cli.reject(mistake)
