"""Studies from what people had before: configurations of nautiluslauncher."""

from shoal.migrate.convert import Migration, migrate
from shoal.migrate.launcher import Job, Note, read_config

__all__ = ["Job", "Migration", "Note", "migrate", "read_config"]
