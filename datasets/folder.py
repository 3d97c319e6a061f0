"""One's own images and masks.

Layout below --root (see docs/own_data.md):
  images/...    any format OpenCV reads
  masks/...     the same names; ids (grey or palette PNG) or colours
  classes.csv   id,name,colour,ignore
"""

from __future__ import annotations

from command import Script

script = Script("folder", __doc__ or "")

if __name__ == "__main__":
    script.run()
