"""Running a finished run again from its record, and telling how far off the picture is and which facts differ.

Each run is made again in a process of its own, from the resolved configuration in its ``run.json``, on input files that
are found by their SHA-256, with the number of threads and the variables that were recorded. ``command`` is the command
line, ``runs`` finds what is to be reproduced, ``inputs`` its files, ``rerun`` runs it, and ``comparison`` compares.
"""

from nst.reproduce.command import main as main
