"""What ``holdfast.testing`` was: the fakes for tests stand in ``holdfast.models.fakes`` now, and are found here too."""

from holdfast.models.fakes import *  # noqa: F403
from holdfast.models.fakes import __all__  # noqa: F401
