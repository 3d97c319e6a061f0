"""``python -m segkit.share best.pt OUT/``: a folder to publish; ``segkit.inference.share`` does the work."""

from __future__ import annotations

import sys

from segkit.inference.share import main

if __name__ == "__main__":
    sys.stdout.write(main())
