"""The process that runs again: ``python -m nst.reproduce PLAN.json``."""

import json
import sys
from pathlib import Path

from nst.reproduce.rerun import Plan, run_plan

if __name__ == "__main__":
    sys.exit(run_plan(Plan(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
