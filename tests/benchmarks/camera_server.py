"""A process that serves scripted cameras for a benchmark, so that their cost is not the stream's.

Arguments: the number of cameras, frames a second, and what the others do (`--others` names of acts). Prints the
addresses as a JSON line; a line on its standard input, `off` or `on`, cuts the power or brings it back;
the end of the input ends it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from support import acts, coded
from support.acts import Act
from support.fault_server import FaultServer
from support.video import numbered_picture

OTHERS = {
    "flood": lambda clip: Act(announced=clip, pictures=clip.picture, fps=120.0),
    "drips": lambda clip: acts.drips(),
    "SEI only": lambda clip: acts.sei_only(15),
    "storm": lambda clip: acts.closes(5),
}


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("fps", type=float)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640))
    parser.add_argument("--others", nargs="*", default=[], choices=sorted(OTHERS))
    options = parser.parse_args()
    # A plain picture that moves: what is measured is the pipeline, not the decoder on noise.
    coded._DRAWINGS["plain"] = lambda number, height, width: numbered_picture(  # type: ignore[index]
        number, height=height, width=width
    )
    clip = coded.encode("h264", size=tuple(options.size), drawing="plain")  # type: ignore[arg-type]
    steady = Act(announced=clip, pictures=clip.picture, fps=options.fps)
    with ExitStack() as stack:
        servers = [stack.enter_context(FaultServer(steady)) for _ in range(options.number)]
        others = [stack.enter_context(FaultServer(OTHERS[name](clip))) for name in options.others]
        print(
            json.dumps({"steady": [each.rtsp for each in servers], "others": [x.rtsp for x in others]}),
            flush=True,
        )
        for line in sys.stdin:
            for server in servers:
                if line.strip() == "off":
                    server.power_off()
                else:
                    server.power_on()
            print(json.dumps({"done": line.strip(), "at": time.time()}), flush=True)


if __name__ == "__main__":
    main()
