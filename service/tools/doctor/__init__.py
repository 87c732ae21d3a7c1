"""`bandexa doctor`: what is wrong with the machine, settings and data directory, and what helps.

Runs beside a server or before its first start. It changes nothing: it writes one small file to
measure the disk, and removes it. A database of an older release is migrated in a temporary copy.
"""

from service.tools.doctor.check import Check, State
from service.tools.doctor.examine import examine

__all__ = ["Check", "State", "examine"]
