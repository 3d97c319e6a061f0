"""End a command in one line if Ctrl-C comes while modules are being imported; commands import this first."""

import os
import signal
import sys
import threading
from typing import NoReturn


def stop(*_: object) -> NoReturn:
    """End this process; an exception could be turned into another one by the module being imported."""
    sys.stderr.write("stopped\n")
    sys.stderr.flush()
    os._exit(130)


def restore() -> None:
    """Let Ctrl-C raise ``KeyboardInterrupt`` again."""
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


is_main_thread = threading.current_thread() is threading.main_thread()
if is_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stop)
