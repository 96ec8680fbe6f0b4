"""Write down how many processes a launcher starts: `python -m budwood.training.count FILE`, in every one of them."""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and os.environ.get("RANK", "0") == "0":
    Path(sys.argv[1]).write_text(os.environ.get("WORLD_SIZE", "1"), encoding="utf-8")
