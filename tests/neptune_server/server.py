"""The server's parts in one place, as handlers see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .archives import Archives
from .auth import Authority
from .connections import Connections
from .faults import Faults
from .limits import Limits
from .omissions import Omissions
from .search import TableHabits
from .store import Store
from .traffic import Traffic
from .uploads import Uploads


@dataclass(frozen=True)
class Options:
    token_ttl: float = 300.0
    index_lag: float = 0.0
    archive_delay: float = 0.0
    client_names: bool = False
    projects_per_page: int | None = None
    without: frozenset[str] = frozenset()
    tables: TableHabits = field(default_factory=TableHabits)
    username: str = "jackie"


@dataclass
class Server:
    options: Options
    folder: Path
    store: Store = field(init=False)
    authority: Authority = field(init=False)
    uploads: Uploads = field(init=False)
    archives: Archives = field(init=False)
    faults: Faults = field(default_factory=Faults)
    limits: Limits = field(default_factory=Limits)
    omissions: Omissions = field(default_factory=Omissions)
    traffic: Traffic = field(default_factory=Traffic)
    connections: Connections = field(default_factory=Connections)
    paths: dict[str, str] = field(default_factory=dict)
    """Where each operation is found."""

    def __post_init__(self) -> None:
        for name in ("files", "archives"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.store = Store(self.folder / "files", owner=self.options.username, index_lag=self.options.index_lag)
        self.authority = Authority(self.options.username, self.options.token_ttl)
        self.uploads = Uploads(self.store)
        self.archives = Archives(self.folder / "archives", self.options.archive_delay)
