"""What every test stands on; it runs before torch is first imported."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands set it: waiting threads leave the core
