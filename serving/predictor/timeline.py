"""When what of a start was done, counted from the start of the process."""

import os
import time


class Timeline:
    """Marks by name: seconds since the process was started."""

    def __init__(self) -> None:
        self.marks: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """Note that `name` is done now."""
        self.marks[name] = round(process_age(), 4)

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.marks.items())


def process_age() -> float:
    """Seconds since this process was started, from /proc (to a hundredth); 0 where there is none."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0
