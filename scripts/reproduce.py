"""Run a finished run, a sweep's runs or a bundle's again from their records, and tell how far off they are.

    python scripts/reproduce.py outputs/2026-05-01/10-00-00
    python scripts/reproduce.py outputs/multirun/2026-05-01/10-00-00 --run 3
    python scripts/reproduce.py bundle.zip --inputs ~/pictures

Exits with 0 if every picture is identical, 2 if one is not, 1 after an error. docs/reproduce.md has the details.
"""

import sys

from nst import reproduce
from nst.errors import ending_a_script

if __name__ == "__main__":
    with ending_a_script():
        sys.exit(reproduce.main())
