"""I/O. Keeps the run folder complete while the run is up.

Cleaners of /tmp remove old files, disks fill up, file systems turn read-only. The run continues:
its state is in memory, missing files are written again, and failures to write are logged. Sockets
that cannot be made in the folder are made in a spare one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from wsraw.runtime.link import place
from wsraw.supervisor.control.link import Control
from wsraw.supervisor.log import Log
from wsraw.supervisor.run_folder.folder import CONTROL, Folder, FolderError

LOOK: Final = 1.0
"""Seconds between two checks."""


class Keeper:
    """Watches the run folder, the spare one if there is one, and the control link's socket."""

    def __init__(
        self, home: Folder, control: Control, worker_token: str, log: Log, link: str = ""
    ) -> None:
        """`link`: the endpoint of the link, if it is the same for each gateway."""
        self._home = home
        self._spare: Folder | None = None
        self._control = control
        self._control_file = _identity(control.endpoint)
        self._fixed_link = link
        self._link = link
        self._link_file = _identity(link)
        self._is_relinking = False
        self.worker_token = worker_token
        """The token of workers that are started by hand."""
        self._log = log
        self._trouble: dict[Folder | Control, str] = {}
        """The problem of each, at the last check; "" if there was none."""

    @property
    def spare(self) -> Folder | None:
        """The other folder for sockets, if there is one."""
        return self._spare

    def go_on(self, spare: Folder | None, endpoint: str) -> None:
        """Instead of `begin`, after the program before us: the files exist already."""
        self._spare = spare
        if endpoint:
            self.linked(endpoint)

    def begin(self) -> None:
        """Write the files by which other processes find the run. Raises FolderError."""
        self._introduce(self._home)
        self._home.restore()

    def _introduce(self, folder: Folder) -> None:
        if self._fixed_link:
            # Before the token: see place.py.
            folder.set_file(place.ENDPOINT, f"{self._fixed_link}\n")
        folder.set_file(place.TOKEN, f"{self.worker_token}\n")
        folder.set_file(CONTROL, f"{self._control.client_token}\n{self._control.endpoint}\n")

    def _folders(self) -> list[Folder]:
        return [self._home, self._spare] if self._spare is not None else [self._home]

    # --- checks ---

    def keep(self) -> None:
        """Write missing files again, as far as possible."""
        for folder in self._folders():
            self._restore(folder)
        file = _identity(self._control.endpoint)
        if file is None or file != self._control_file:
            self._bind_control()

    def _restore(self, folder: Folder) -> None:
        trouble = ""
        try:
            if folder.restore():
                text = f"files of the run folder {folder.path} were missing or changed; restored"
                self._log.say("warning", text)
        except FolderError as error:
            trouble = (
                f"{error}. The run continues; commands, workers started by hand and later runs may "
                "fail until this is fixed"
            )
        self._tell(folder, trouble, f"the run folder {folder.path} is complete again")

    def _bind_control(self) -> None:
        trouble = ""
        try:
            self._control.bind(self.place().path)
        except FolderError as error:
            # The next check tries again.
            trouble = f"commands such as `wsraw status` cannot reach this run: {error}"
        self._tell(self._control, trouble, "commands can reach this run again")
        if trouble:
            return
        self._control_file = _identity(self._control.endpoint)
        for folder in self._folders():
            self._introduce(folder)
            self._restore(folder)

    def _tell(self, what: Folder | Control, trouble: str, over: str) -> None:
        """Log a problem once, although each check finds it, and its end."""
        before, self._trouble[what] = self._trouble.get(what, ""), trouble
        if trouble and trouble != before:
            self._log.say("error", trouble)
        elif before and not trouble:
            self._log.say("info", over)

    # --- the link ---

    def linked(self, endpoint: str) -> None:
        """A gateway has bound the socket of its link."""
        self._link = endpoint
        self._link_file = _identity(endpoint)
        self._is_relinking = False

    def unlinked(self) -> None:
        """Stop waiting for a gateway that has gone to restore the link."""
        self._is_relinking = False

    def expected_link(self) -> str:
        """The endpoint where the next gateway will listen."""
        return self._fixed_link or place.endpoint(self.place().path)

    def is_link_gone(self) -> bool:
        """Whether the link's socket file is gone, so that new workers cannot connect."""
        file = _identity(self._link)
        return file is None or file != self._link_file

    def begin_relinking(self) -> bool:
        """Whether the gateway must be told that the file is gone, and was not told yet."""
        before, self._is_relinking = self._is_relinking, self._is_relinking or self.is_link_gone()
        return self._is_relinking and not before

    def place(self) -> Folder:
        """A folder that takes sockets, where a gateway can bind its link's socket."""
        if self._home.takes_sockets():
            return self._home
        if self._spare is None or not self._spare.takes_sockets():
            try:
                spare = self._spare = Folder("", self._log.say)
                self._introduce(spare)
                spare.restore()
            except FolderError as error:
                self._log.say("error", f"no folder for the sockets of the run: {error}")
                return self._home
            text = f"the run folder {self._home.path} cannot hold sockets; new ones are in"
            self._log.say("error", f"{text} {spare.path}")
        return self._spare

    def close(self) -> list[Path]:
        """Remove everything except dead letters; return the files of those."""
        return [kept for folder in self._folders() if (kept := folder.close()) is not None]


def _identity(endpoint: str) -> tuple[int, int] | None:
    """Identity of the socket's file, None if it is gone; constant for endpoints without a file."""
    if not endpoint.startswith("ipc://"):
        return 0, 0
    try:
        status = os.stat(endpoint.removeprefix("ipc://"))
    except OSError:
        return None
    return status.st_dev, status.st_ino
