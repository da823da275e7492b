"""A real RTSP server on GStreamer, a process of its own under the system's python3 (see rtsp_server.py).

Serves a file from its start to each client at its own pace (/file), or a running camera (/live). Writes
"ready PORT" when it listens. Imports nothing but gi and the standard library: it runs outside the project's
environment.
"""

import argparse
import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

LIVE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate={fps}/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} "
    "! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )"
)
FILE = '( filesrc location="{path}" ! qtdemux ! h264parse ! rtph264pay config-interval=-1 name=pay0 pt=96 )'


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--file")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--digest", action="store_true")
    arguments = parser.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(arguments.port)
    mounts = server.get_mount_points()
    launches = {}
    if arguments.file:
        launches["/file"] = FILE.format(path=arguments.file)
    if arguments.live:
        width, height = arguments.size.split("x")
        launches["/live"] = LIVE.format(width=width, height=height, fps=arguments.fps)
    for path, launch in launches.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(launch)
        # Not shared: each client gets a pipeline of its own and so the file from its first frame.
        factory.set_shared(path == "/live")
        factory.connect("media-configure", _part_politely)
        if arguments.user:
            permissions = GstRtspServer.RTSPPermissions()
            for right in ("media.factory.access", "media.factory.construct"):
                permissions.add_permission_for_role("viewer", right, True)
            factory.set_permissions(permissions)
        mounts.add_factory(path, factory)
    if arguments.user:
        _protect(server, arguments)
    if not server.attach(None):
        sys.exit("cannot listen")
    print("ready", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def _part_politely(factory, media) -> None:
    """Send the goodbye half a second after the last packet.

    Over UDP FFmpeg reads the goodbye before the data that came before it, and ends: the last frames would be
    lost when the reader is late.
    """

    def hold(pad, info):
        if info.get_event().type == Gst.EventType.EOS:
            time.sleep(0.5)
        return Gst.PadProbeReturn.OK

    pad = media.get_element().get_by_name_recurse_up("pay0").get_static_pad("src")
    pad.add_probe(Gst.PadProbeType.EVENT_DOWNSTREAM, hold)


def _protect(server, arguments) -> None:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if arguments.digest:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(arguments.user, arguments.password, token)
    else:
        basic = GstRtspServer.RTSPAuth.make_basic(arguments.user, arguments.password)
        auth.add_basic(basic, token)
    server.set_auth(auth)


if __name__ == "__main__":
    main()
