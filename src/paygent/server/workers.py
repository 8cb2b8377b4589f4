"""Worker processes: uvicorn's supervisor, which ends if a worker cannot run, and workers that end
with their parent.

A worker that was killed by a signal is replaced. One that ends by itself with an error would do so
again: the server ends, and whatever supervises it reports the failure and decides on a restart.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from paygent.server.logs import LOGGER


class Workers(Multiprocess):
    """The supervisor of the worker processes."""

    _is_failing = False

    def run(self) -> None:
        """Run the workers until a signal.

        Raises:
            SystemExit: A worker failed; its log has the reason.
        """
        super().run()
        if self._is_failing:
            raise SystemExit(STARTUP_FAILURE)

    def keep_subprocess_alive(self) -> None:
        """Replace workers that were killed; end all if one failed."""
        if self.should_exit.is_set():
            return  # by a signal, at which a worker that is starting may end with an error, too
        if self._has_failed():
            LOGGER.error("a worker process failed; the server ends")
            self.should_exit.set()
        else:
            super().keep_subprocess_alive()  # which may find one that has failed meanwhile
        self._is_failing = self.should_exit.is_set()

    def _has_failed(self) -> bool:
        # Negative for a signal, which is also how a worker ends at SIGTERM.
        return any((each.process.exitcode or 0) > 0 for each in self.processes)


def end_with_parent() -> None:
    """Let this worker process finish its requests and end if its parent is killed.

    Without its parent it could not be stopped by SIGTERM to the server, and would keep the port.
    """
    threading.Thread(target=_follow_parent, name="paygent-parent", daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only worker processes come here
    parent.join()  # the end of a pipe that the parent alone holds open
    LOGGER.warning("the parent process has ended; this worker process ends, too")
    os.kill(os.getpid(), signal.SIGTERM)
